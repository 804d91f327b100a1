"""The loss of a host: who would come back where, the fence, the evacuation, and the way back."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from cloud.console.guard import for_operators
from cloud.pages.live import render_live
from compute.fencing.registry import driver_of
from compute.models import Pool
from compute.selectors.lookup import find_pool
from compute.selectors.losses import loss_state
from compute.services.evacuations import evacuate_host
from compute.services.fences import fence_host, return_host
from compute.services.loss_forecast import foresee_loss, foresee_losses
from tenants.services.access import Actor


@require_safe
@for_operators
def show(request: HttpRequest, actor: Actor, host_id: uuid.UUID) -> HttpResponse:
    host, fates = foresee_loss(actor=actor, reference=str(host_id))
    state = loss_state(host=host)
    context = {
        "host": host,
        "fates": fates,
        "staying": sum(fate.host_id is None for fate in fates),
        "state": state,
        "driver": driver_of(settings.FENCING_FILE, host.name),
    }
    return render_live(request, "console/hosts/loss.html", "console/hosts/_loss.html", context)


@require_safe
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    """One pool, each of its hosts; `?pool=` chooses it by name."""
    pools = list(Pool.objects.order_by("name"))
    context: dict[str, object] = {"pools": pools}
    if pools:
        pool = find_pool(request.GET["pool"]) if request.GET.get("pool") else pools[0]
        context |= {"pool": pool, "found": foresee_losses(actor=actor, pool=pool)}
    return render(request, "console/hosts/losses.html", context)


@require_POST
@for_operators
def act(request: HttpRequest, actor: Actor, host_id: uuid.UUID, verb: str) -> HttpResponse:
    """Fence by the driver or by one's word, evacuate, or take back."""
    if verb == "fence":
        fence = fence_host(actor=actor, host_id=host_id, reason=request.POST.get("reason", "").strip())
        messages.info(request, f"The driver {fence.driver} was told to switch it off. Nothing moves before its proof.")
    elif verb == "vouch":
        fence_host(actor=actor, host_id=host_id, statement=request.POST.get("statement", "").strip() or " ")
        messages.success(request, "It is fenced on your word. Its guests may be evacuated now.")
    elif verb == "evacuate":
        evacuate_host(actor=actor, host_id=host_id)
        messages.success(request, "Its guests are being started on other hosts.")
    else:
        return_host(actor=actor, host_id=host_id)
        messages.success(request, "It is taken back. It serves when its stale guests are destroyed.")
    return redirect("console:host-loss", host_id)
