"""The form of an instance's lease."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from cloud.pages.fields import Form
from cloud.portal.desk import Desk, at_desk, move_to
from cloud.portal.lengths import LENGTHS, read_lease
from compute.selectors.instances import get_instance
from compute.services.leases import change_lease
from tenants.errors import DomainError
from tenants.services.access import authorize


@require_http_methods(["GET", "HEAD", "POST"])
@at_desk
def lease(request: HttpRequest, desk: Desk, instance_id: uuid.UUID) -> HttpResponse:
    """The form; a refusal shows it again with the reason."""
    instance = get_instance(actor=desk.actor, reference=str(instance_id))
    desk = move_to(request, desk, instance.tenant_id)
    authorize(desk.actor, "instance.update", instance.tenant_id)
    form = Form(
        values={
            "lease": request.POST.get("lease", ""),
            "lease_action": request.POST.get("lease_action", instance.lease_action or "stop"),
        }
    )
    if request.method == "POST":
        try:
            asked = read_lease(form.values["lease"], form.values["lease_action"])
            change_lease(actor=desk.actor, instance_id=instance_id, lease=asked)
        except DomainError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{instance.name} {_said(asked is None, form.values['lease_action'])}.")
            return redirect("instance", instance_id)
    context = {"desk": desk, "form": form, "instance": instance, "lengths": LENGTHS}
    return render(request, "portal/instances/lease.html", context, status=400 if form.errors or form.refusal else 200)


def _said(for_ever: bool, action: str) -> str:
    if for_ever:
        return "has no lease any more"
    return "is deleted when its lease ends" if action == "delete" else "is stopped when its lease ends"
