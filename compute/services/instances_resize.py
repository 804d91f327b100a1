"""Resize: another flavor for a stopped instance, on the host that it is on."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from django.db import transaction

from compute import outbox
from compute.errors import InvalidState, NoValidHost
from compute.models import Domain, Flavor, Instance, Operation
from compute.placement import limits
from compute.placement.loader import load_host
from compute.placement.resize import RoomRefused, amounts_of, grow, larger_of, refusal_of, size_of
from compute.scheduler.filters import FILTERS
from compute.scheduler.model import Request, Resources
from compute.selectors import lookup
from compute.selectors.prices import hourly_prices
from compute.services.instances_wanted import cpu_models_of, numa_of
from compute.services.locking import lock_instance
from compute.wire import Kind
from tenants.errors import InvalidInput, NotFound, QuotaExceeded
from tenants.models import Tenant
from tenants.services import audit
from tenants.services.access import Actor, authorize, visible_tenant_ids
from tenants.services.quota_forecast import forecast_charge, shown_lines

_OFF = ("stopped", "crashed", "absent")
_WORDS = {"vcpus": "vCPU", "memory_mib": "MiB of memory", "disk_gib": "GiB of disk"}


@dataclass(frozen=True, slots=True)
class ResizeSize:
    """A size, and what it costs in an hour at the prices of this moment. `per_hour` None: the price book is empty."""

    flavor: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    per_hour: Decimal | None


@dataclass(frozen=True, slots=True)
class ResizePlan:
    """What a resize would meet now. `refused_by`: codes of the problems it would meet; `reasons`: the same as sentences.

    `quota` has a line for each resource that grows, at every level that the actor sees.
    """

    fits: bool
    before: ResizeSize
    after: ResizeSize
    currency: str | None
    refused_by: list[str]
    reasons: list[str]
    quota: list[dict[str, Any]]


def resize_instance(
    *,
    actor: Actor,
    instance_id: uuid.UUID,
    flavor: str,
    if_version: int | None = None,
    request_key: uuid.UUID | None = None,
) -> tuple[Instance, Operation]:
    """Order another flavor, by id or name. What it takes more is claimed and charged now, what it takes less comes back
    when the host has done it.

    Raises NotFound, PermissionDenied, VersionMismatch, OperationInProgress; InvalidInput (no such flavor, of the other
    kind, the present one, a smaller disk); InvalidState (not stopped); NoValidHost with `reasons`; QuotaExceeded.
    """
    with transaction.atomic(durable=True):
        instance = lock_instance(
            actor=actor, instance_id=instance_id, permission="instance.resize", if_version=if_version
        )
        wanted = _look_up(flavor, instance)
        _check_stopped(instance)
        before, after = instance.flavor, size_of(wanted)
        operation = outbox.submit(
            actor=actor,
            kind="instance_resize",
            target_type="instance",
            target_id=instance.id,
            target_name=instance.name,
            tenant_id=instance.tenant_id,
            arguments={"before": _as_input(instance, before), "after": _as_input(wanted, wanted)},
            request_key=request_key,
        )
        audit.record(
            actor=actor,
            action="instance.resize",
            tenant=instance.tenant_id,
            target=instance,
            operation_id=operation.id,
            before={"flavor": before.name},
            after={"flavor": wanted.name},
        )
        unfit = _processor_sentences(instance, wanted)
        if unfit:
            raise NoValidHost(f"{instance.name} cannot be resized on its host. " + " ".join(unfit), reasons=unfit)
        held = larger_of(size_of(instance), after)
        try:
            # The flavor is the new one from now on where the new size is held and nothing else.
            grow(instance=instance, size=held, flavor=wanted if held == after else before, actor=actor)
        except RoomRefused as error:
            reasons = _room_sentences(error)
            raise NoValidHost(
                f"{instance.name} cannot grow on its host. " + " ".join(reasons), reasons=reasons
            ) from None
        return instance, operation


def plan_resize(*, actor: Actor, instance_id: uuid.UUID, flavor: str) -> ResizePlan:
    """Return what `resize_instance` would meet now; nothing is taken, and the next moment may differ.

    Raises NotFound, PermissionDenied, InvalidInput as the resize would. Refusals are answers, not errors.
    """
    rows = Instance.unscoped.select_related("tenant", "host__pool", "pool", "flavor", "image")
    instance = rows.filter(id=instance_id).exclude(state="deleted").first()
    if instance is None:
        raise NotFound
    authorize(actor, "instance.resize", instance.tenant_id)
    wanted = _look_up(flavor, instance)
    refusals: list[tuple[str, list[str]]] = []
    try:
        _check_stopped(instance)
    except InvalidState as error:
        refusals.append((error.code, [error.detail]))
    unfit = _processor_sentences(instance, wanted)
    if unfit:
        refusals.append((NoValidHost.code, unfit))
    held = larger_of(size_of(instance), size_of(wanted))
    amounts = amounts_of(held - size_of(instance))
    if instance.host is not None and any(amounts.values()):
        refusal = refusal_of(instance=instance, size=held)
        if refusal is not None and not unfit:
            refusals.append((NoValidHost.code, _room_sentences(refusal)))
    tenant: Tenant = instance.tenant
    lines = [line for line in forecast_charge(tenant=tenant, amounts=amounts) if line.asked]
    in_pool = limits.forecast(tenant=tenant, amounts=amounts).get(str(instance.pool_id), [])
    if any(line.missing for line in (*lines, *in_pool)):
        refusals.append((QuotaExceeded.code, ["The quota, or the limit of a grant, has no room for it."]))
    prices = hourly_prices(flavors=[instance.flavor, wanted], pool=instance.pool)
    priced = prices[wanted.id].currency is not None
    visible = visible_tenant_ids(actor)
    return ResizePlan(
        fits=not refusals,
        before=_size(instance, instance.flavor, prices[instance.flavor_id].total if priced else None),
        after=_size(wanted, wanted, prices[wanted.id].total if priced else None),
        currency=prices[wanted.id].currency,
        refused_by=[code for code, _ in refusals],
        reasons=[sentence for _, sentences in refusals for sentence in sentences],
        quota=shown_lines(lines, visible),
    )


def may_become(instance: Instance, flavor: Flavor) -> bool:
    """Return whether a resize to another flavor is to be thought of; a smaller disk is told of by the plan. No query."""
    kept = numa_of(flavor) is not None or numa_of(instance.flavor) is not None
    return flavor.kind in ("", instance.kind) and flavor.id != instance.flavor_id and not kept


def _look_up(reference: str, instance: Instance) -> Flavor:
    try:
        flavor = lookup.find_flavor(reference)
    except NotFound as error:
        raise InvalidInput.field("/flavor", "not_found", error.detail) from None
    if flavor.kind and flavor.kind != instance.kind:
        raise InvalidInput.field("/flavor", "kind_mismatch", f"The flavor {flavor.name} is for a {flavor.kind}.")
    if flavor.disk_gib < instance.disk_gib:
        raise InvalidInput.field(
            "/flavor",
            "disk_too_small",
            f"A disk never shrinks, since its file system would be cut: {instance.name} has {instance.disk_gib} GiB, "
            f"the flavor {flavor.name} {flavor.disk_gib}.",
        )
    if numa_of(flavor) is not None or numa_of(instance.flavor) is not None:
        raise InvalidInput.field(
            "/flavor",
            "dedicated",
            "CPUs, huge pages and NUMA cells of one's own are given when an instance is made: make a new one.",
        )
    if flavor.id == instance.flavor_id and size_of(flavor) == size_of(instance):
        raise InvalidInput.field("/flavor", "unchanged", f"{instance.name} has the flavor {flavor.name} already.")
    return flavor


def _check_stopped(instance: Instance) -> None:
    if instance.state != "active" or instance.host_id is None:
        raise InvalidState(
            f"{instance.name} is {instance.state}: it cannot be resized.", state=instance.state, allowed=["active"]
        )
    power = Domain.objects.filter(instance=instance, host=instance.host_id).values_list("power", flat=True).first()
    if instance.desired_power != "stopped" or power not in _OFF:
        raise InvalidState(
            f"{instance.name} is not stopped. Stop it, then resize it: the new size counts from its next start.",
            state=power or "unknown",
            allowed=["stopped"],
        )


def _processor_sentences(instance: Instance, flavor: Flavor) -> list[str]:
    """Say what the flavor asks of processors that the instance's host has not. Whether it has room is the claim's to say."""
    if instance.host_id is None:
        return []
    host = load_host(instance.host_id)
    request = Request(
        kind=cast(Kind, instance.kind),
        resources=Resources(0, 0, 0),
        cpu_models=cpu_models_of(flavor),
        cpu_flags=frozenset(flavor.cpu_flags),
    )
    asked = [item for item in FILTERS if item.name in ("cpu_model", "cpu_flags")]
    return [f"Its host {item.seen(host, request)}." for item in asked if item.refuses(host, request)]


def _room_sentences(refusal: RoomRefused) -> list[str]:
    if not refusal.in_service:
        return ["Its host takes nothing new at this time."]
    if not refusal.missing:
        return ["The reservation that it fills is too small for the new size, and its host has no room for all of it."]
    return [
        f"Its host has room for {max(0, lack.free)} {_WORDS[lack.resource]} more, {lack.asked} more would be needed."
        for lack in refusal.missing
    ]


def _size(row: Instance | Flavor, flavor: Flavor, per_hour: Decimal | None) -> ResizeSize:
    return ResizeSize(flavor.name, row.vcpus, row.memory_mib, row.disk_gib, per_hour)


def _as_input(row: Instance | Flavor, flavor: Flavor) -> dict[str, Any]:
    size = size_of(row)
    return {
        "flavor": str(flavor.id),
        "vcpus": size.vcpus,
        "memory_mib": size.memory_mib,
        "disk_gib": size.disk_gib,
    }
