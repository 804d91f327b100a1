"""Resizing an instance: the choice of sizes, with what each would mean, before anything is done."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from cloud.pages.fields import Form
from cloud.portal.desk import Desk, at_desk, move_to
from compute.selectors.catalog import list_flavors
from compute.selectors.instances import get_instance
from compute.services.instances_resize import may_become, plan_resize, resize_instance
from tenants.errors import DomainError, InvalidInput
from tenants.services.access import authorize


@require_http_methods(["GET", "HEAD", "POST"])
@at_desk
def resize(request: HttpRequest, desk: Desk, instance_id: uuid.UUID) -> HttpResponse:
    """The form; a refusal shows it again with the reason."""
    instance = get_instance(actor=desk.actor, reference=str(instance_id))
    desk = move_to(request, desk, instance.tenant_id)
    authorize(desk.actor, "instance.resize", instance.tenant_id)
    flavors = [flavor for flavor in list_flavors(actor=desk.actor) if may_become(instance, flavor)]
    form = Form(values={"flavor": request.POST.get("flavor", "")})
    if request.method == "POST":
        try:
            resize_instance(actor=desk.actor, instance_id=instance_id, flavor=form.values["flavor"])
        except DomainError as error:
            form.refuse(error)
        else:
            messages.info(request, f"{instance.name} is being resized.")
            return redirect("instance", instance_id)
    context = {
        "desk": desk,
        "form": form,
        "instance": instance,
        "flavors": sorted(flavors, key=lambda flavor: (flavor.vcpus, flavor.memory_mib)),
    }
    return render(request, "portal/instances/resize.html", context, status=400 if form.errors or form.refusal else 200)


@require_safe
@at_desk
def plan(request: HttpRequest, desk: Desk, instance_id: uuid.UUID) -> HttpResponse:
    """What the chosen size would mean, or why it can never be had; a hint as long as none is chosen."""
    instance = get_instance(actor=desk.actor, reference=str(instance_id))
    try:
        found = plan_resize(actor=desk.actor, instance_id=instance_id, flavor=request.GET.get("flavor", ""))
    except InvalidInput as error:
        asked = bool(request.GET.get("flavor"))
        return render(
            request, "portal/instances/_resize_plan.html", {"plan": None, "refusal": error if asked else None}
        )
    own = str(instance.tenant_id)
    charged = {line["resource"]: line for line in found.quota if line["tenant"] and line["tenant"]["id"] == own}
    lines = [
        (resource, getattr(found.before, resource), getattr(found.after, resource), charged.get(resource))
        for resource in ("vcpus", "memory_mib", "disk_gib")
    ]
    return render(request, "portal/instances/_resize_plan.html", {"plan": found, "lines": lines})
