"""Making instances."""

from __future__ import annotations

import json

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from cloud.pages.fields import Form, whole_number
from cloud.portal.desk import Desk, at_desk
from cloud.portal.lengths import LENGTHS, read_lease
from cloud.portal.views.dashboard import MAIN_RESOURCES
from compute.errors import InvalidState
from compute.selectors.catalog import list_flavors, list_groups, list_images, list_keypairs
from compute.selectors.pools import list_pools
from compute.services.instances_create import create_instances
from compute.services.instances_forecast import forecast_instances
from tenants.errors import DomainError, InvalidInput
from tenants.services import quotas
from tenants.services.access import authorize


@require_http_methods(["GET", "HEAD", "POST"])
@at_desk
def new(request: HttpRequest, desk: Desk) -> HttpResponse:
    authorize(desk.actor, "instance.create", desk.tenant)
    images = list(list_images(actor=desk.actor))
    flavors = sorted(list_flavors(actor=desk.actor), key=lambda flavor: (flavor.vcpus, flavor.memory_mib))
    keypairs = list(list_keypairs(actor=desk.actor, tenant_id=desk.tenant.id))
    groups = list(list_groups(actor=desk.actor, tenant_id=desk.tenant.id))
    pools = list(list_pools(actor=desk.actor))
    form = Form(
        values={
            "name": "",
            "image": str(images[0].id) if images else "",
            "flavor": str(flavors[0].id) if flavors else "",
            "pool": str(pools[0].id) if pools else "",
            "group": "",
            "keypairs": [keypairs[0].name] if keypairs else [],
            "user_data": "",
            "tags": "",
            "count": "1",
            "lease": "",
            "lease_action": "stop",
        }
    )
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "") for name in form.values}
        form.values["keypairs"] = request.POST.getlist("keypairs")
    if "apply" in request.POST:
        form.values |= _remedied(request.POST["apply"], {pool.name: str(pool.id) for pool in pools})
    elif request.method == "POST":
        try:
            created = create_instances(
                actor=desk.actor,
                tenant=desk.tenant,
                name=form.values["name"].strip(),
                image=form.values["image"],
                flavor=form.values["flavor"],
                pool=form.values["pool"] or None,
                keypairs=form.values["keypairs"],
                group=form.values["group"] or None,
                # Browsers send CRLF; cloud-init's scripts must begin with a clean "#!" line.
                user_data=form.values["user_data"].replace("\r\n", "\n"),
                tags=_tags(form.values["tags"]),
                count=_count(form.values["count"]),
                lease=read_lease(form.values["lease"], form.values["lease_action"]),
            )
        except DomainError as error:
            form.refuse(error, fields={"kind": "image"})
        else:
            if len(created.instances) == 1:
                return redirect("instance", created.instances[0].id)
            messages.success(request, f"{len(created.instances)} instances are being made.")
            return redirect("instances")
    lines = [line for line in quotas.summary(desk.tenant) if line.resource in MAIN_RESOURCES]
    context = {
        "desk": desk,
        "form": form,
        "images": images,
        "flavors": flavors,
        "keypairs": keypairs,
        "pools": pools,
        "groups": groups,
        "lengths": LENGTHS,
        "lines": sorted(lines, key=lambda line: MAIN_RESOURCES.index(line.resource)),
    }
    return render(request, "portal/instances/new.html", context, status=400 if form.errors or form.refusal else 200)


@require_safe
@at_desk
def forecast(request: HttpRequest, desk: Desk) -> HttpResponse:
    """What the create would meet, while its form is being filled in; empty as long as that cannot be told."""
    try:
        found = forecast_instances(
            actor=desk.actor,
            tenant=desk.tenant,
            name="forecast",
            image=request.GET.get("image", ""),
            flavor=request.GET.get("flavor", ""),
            pool=request.GET.get("pool") or None,
            group=request.GET.get("group") or None,
            count=_count(request.GET.get("count", "")),
        )
    except (InvalidInput, InvalidState):
        return render(request, "portal/instances/_forecast.html", {"forecast": None})
    own = [line for line in found.quota if line["resource"] == "instances" and line["limit"] is not None]
    tightest = min(own, key=lambda line: line["limit"] - line["after"], default=None)
    context = {
        "forecast": found,
        "instances_left": tightest["limit"] - tightest["after"] if tightest else None,
        "instances_limit": tightest["limit"] if tightest else None,
    }
    return render(request, "portal/instances/_forecast.html", context)


def _remedied(text: str, pools: dict[str, str]) -> dict[str, str]:
    """Return the form's values that a remedy changes; `pools`: name -> id, as the form knows them. Nonsense changes nothing."""
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    values = {name: str(body[name]) for name in ("flavor", "pool", "count") if isinstance(body.get(name), str | int)}
    if "pool" in values:
        values["pool"] = pools.get(values["pool"], values["pool"])
    return values


def _count(text: str) -> int:
    try:
        return whole_number(text.strip())
    except ValueError:
        raise InvalidInput.field("/count", "invalid_count", "Count is a whole number.") from None


def _tags(text: str) -> dict[str, str]:
    """Read one `key=value` a line. Raises InvalidInput."""
    tags = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        key, sign, value = line.partition("=")
        if not sign:
            raise InvalidInput.field("/tags", "invalid_tags", "Write one tag a line, as key=value.")
        tags[key.strip()] = value.strip()
    return tags
