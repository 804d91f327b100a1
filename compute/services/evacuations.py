"""Evacuation: the guests of a host that is proved off are started on others, by priority, each in one transaction.

The books move with the guest: its room on the lost host is given back in the moment in which it gets the new one, and the
lost host owes its leftover (`instance.withdraw`), to be paid before anything else should it return. Nothing is concluded from
silence: without a fence that holds nobody moves.
"""

from __future__ import annotations

import logging
import uuid
from typing import Final

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from compute import outbox, states
from compute.errors import InvalidState
from compute.models import Allocation, Domain, Evacuation, Fence, Host, HostCall, Instance, Operation, Port
from compute.placement.place import Refused, place
from compute.scheduler.model import Policy
from compute.services import decisions
from compute.services.fences import holds, lock_host
from compute.services.locking import lock_instance
from compute.services.lost_guests import (
    Fate,
    guests_of,
    leaving_of,
    loaded,
    networks_of,
    no_room,
    obstacle_of,
    request_of,
)
from compute.transitions import move
from tenants.errors import InvalidInput
from tenants.models.ids import new_id
from tenants.services import audit, tree
from tenants.services.access import Actor, authorize, system_actor

log = logging.getLogger(__name__)

ACTOR: Final = system_actor("evacuation")
# Starts under way at once, over all destinations: so many that hosts are busy, so few that order still means something.
AT_ONCE: Final = 16
WITHDRAW_SECONDS: Final = 90.0


class _Heard(Exception):
    """The lost host was heard in the very moment: the proof does not hold any more."""


def evacuate_host(*, actor: Actor, host_id: uuid.UUID) -> Evacuation:
    """Order that the guests of a fenced host come back on others. One that runs is returned as it is.

    Raises InvalidState for a host that is not fenced, or was heard since its fence.
    """
    authorize(actor, "host.fence", None)
    with transaction.atomic(durable=True):
        return order_evacuation(actor=actor, host=lock_host(host_id))


def order_evacuation(*, actor: Actor, host: Host) -> Evacuation:
    """`evacuate_host` for a host whose row the caller has locked."""
    fence = Fence.objects.filter(host=host, state="proved").order_by("-ended_at").first()
    if host.observed_state != "fenced" or fence is None:
        raise InvalidState(
            f"{host.name} is {host.observed_state}. It has to be fenced first: its guests may be running.",
            state=host.observed_state,
        )
    if not holds(fence=fence):
        raise InvalidState(
            f"{host.name} was heard after its fence: its guests may be running. Fence it again, or take it back.",
            state=host.observed_state,
        )
    running: Evacuation | None = Evacuation.objects.filter(host=host, state="running").first()
    if running is not None:
        return running
    evacuation = Evacuation.objects.create(host=host, fence=fence, actor=actor.username)
    audit.record(actor=actor, action="host.evacuate", target=host, after={"guests": guests_of(host).count()})
    outbox.ring("evacuation", evacuation.id)
    return evacuation


def prioritize_instance(
    *, actor: Actor, instance_id: uuid.UUID, priority: int, if_version: int | None = None
) -> Instance:
    """Say when the guest comes back should its host be lost: of 0 to 100, higher ones first. Raises InvalidInput."""
    if not 0 <= priority <= 100:
        raise InvalidInput.field("/priority", "out_of_range", "The priority is a whole number from 0 to 100.")
    with transaction.atomic(durable=True):
        instance = lock_instance(
            actor=actor, instance_id=instance_id, permission="instance.prioritize", if_version=if_version
        )
        before = instance.evacuation_priority
        if before == priority:
            return instance
        Instance.unscoped.filter(id=instance.id).update(evacuation_priority=priority, version=F("version") + 1)
        audit.record(
            actor=actor,
            action="instance.prioritize",
            tenant=instance.tenant_id,
            target=instance,
            before={"evacuation_priority": before},
            after={"evacuation_priority": priority},
        )
        return instance


def take_turn(*, evacuation_id: uuid.UUID, blocked_too: bool) -> int:
    """Start as many guests as may be under way at once, highest priority first; return how many.

    Any number of workers may call this at the same time: one of them has the evacuation's row. `blocked_too`: those that
    could not go at the last look are asked about again. A guest that moved has moved whatever dies next.
    """
    passed: dict[uuid.UUID, Fate] = {}
    moved = 0
    while True:
        with transaction.atomic(durable=True):
            evacuation = (
                Evacuation.objects.select_for_update(skip_locked=True, of=("self",))
                .select_related("fence", "host__pool")
                .filter(id=evacuation_id, state="running")
                .first()
            )
            if evacuation is None:
                return moved
            if not holds(fence=evacuation.fence):
                _stop(evacuation)
                return moved
            open_now = _under_way(evacuation)
            known = {} if blocked_too else {uuid.UUID(row["instance"]): row for row in evacuation.blocked}
            guest = guests_of(evacuation.host).exclude(id__in=[*passed, *known]).first()
            if guest is None or open_now >= AT_ONCE:
                _note(evacuation, [*known.values(), *map(_row, passed.values())], ended=guest is None and not open_now)
                return moved
            try:
                with transaction.atomic():
                    fate = _bring_back(evacuation, guest.id)
            except _Heard:
                _stop(evacuation)
                return moved
            if fate is not None and fate.host_id is None:
                passed[guest.id] = fate
            elif fate is not None:
                Evacuation.objects.filter(id=evacuation.id).update(moved=F("moved") + 1)
                moved += 1


def _bring_back(evacuation: Evacuation, instance_id: uuid.UUID) -> Fate | None:
    """Move the books of one guest and order its start. None where it left the host meanwhile."""
    lost = evacuation.host
    instance = loaded(Instance.unscoped.select_for_update(of=("self",), no_key=True).filter(id=instance_id)).get()
    if instance.host_id != lost.id or instance.state not in states.INSTANCE_HOLDS_ROOM:
        return None
    if (obstacle := obstacle_of(instance, lost)) is not None:
        return obstacle
    tenant = tree.hold_at(instance.tenant_id)
    networks = networks_of(Port.unscoped.filter(instance=instance)).get(instance.id, frozenset())
    request = request_of(instance, lost, networks)
    policy = Policy(name=lost.pool.policy)
    held = Allocation.objects.get(consumer_type="instance", consumer_id=instance.id)
    placed = place(
        consumers=[instance.id], request=request, policy=policy, tenant_path=tenant.path, leaving=leaving_of(held)
    )
    if isinstance(placed, Refused):
        return no_room(instance, placed)
    # Both hosts are locked now: what is heard from here on is heard after this.
    if not holds(fence=evacuation.fence):
        raise _Heard
    decision = decisions.placed_decision(
        decision_id=new_id(),
        tenant_id=tenant.id,
        placed=placed,
        request=placed.request,
        policy=policy,
        name=instance.name,
        recording=lost.pool.recording,
    )
    decision.save(force_insert=True)
    host_id = placed.hosts[instance.id]
    Instance.unscoped.filter(id=instance.id).update(host=host_id, decision_id=decision.id, version=F("version") + 1)
    _owe(lost, instance)
    Domain.objects.filter(instance=instance).delete()
    # As the reconciler wants to find it: where the start below ends badly, it is seen to be missing and started again.
    Domain.objects.create(instance=instance, host_id=host_id, power="absent", since=Now(), observed_at=Now())
    _order_start(instance, evacuation_id=str(evacuation.id))
    return Fate(instance, host_id)


def _order_start(instance: Instance, *, evacuation_id: str) -> None:
    """Have a guest that is to run started where its books say; the trail tells of one that is not to run as well."""
    operation = None
    if instance.state == "active" and instance.desired_power == "running":
        operation = outbox.submit(
            actor=ACTOR,
            kind="instance_evacuate",
            target_type="instance",
            target_id=instance.id,
            target_name=instance.name,
            tenant_id=instance.tenant_id,
            arguments={"evacuation": evacuation_id},
        )
    audit.record(
        actor=ACTOR,
        action="instance.evacuate",
        tenant=instance.tenant_id,
        target=instance,
        operation_id=operation.id if operation else None,
        after={"restarted": operation is not None},
    )


def start_again(*, failed: Operation) -> bool:
    """Order the start of an evacuated guest once more; False where that is no longer called for.

    It has a host and room by its books, so it only has to run: nobody asked anything else of it since it failed.
    """
    with transaction.atomic(durable=True):
        instance: Instance = Instance.unscoped.select_for_update(of=("self",), no_key=True).get(id=failed.target_id)
        newest = Operation.objects.filter(target_id=instance.id).order_by("-created_at").first()
        if newest != failed or instance.state != "active" or instance.desired_power != "running":
            return False
        _order_start(instance, evacuation_id=failed.input["evacuation"])
        return True


def _owe(lost: Host, instance: Instance) -> None:
    """Whatever the lost host was last told of the guest is void; what is left of it there goes first when it returns.

    The debt's token is above all that were sent there before, and below that of the start elsewhere.
    """
    for call in HostCall.objects.select_for_update().filter(
        host=lost, target_id=instance.id, state__in=["waiting", "taken"]
    ):
        move(call, "superseded", settled=True)
    outbox.write_call(
        host_id=lost.id,
        method="instance.withdraw",
        target_type="instance",
        target_id=instance.id,
        arguments={"running_too": True},
        deadline_seconds=WITHDRAW_SECONDS,
        purpose="debt",
    )


def _stop(evacuation: Evacuation) -> None:
    reason = "the host was heard after its fence: its guests may be running there"
    move(evacuation, "stopped", reason=reason, ended_at=Now())
    log.error("evacuation of %s stopped: %s", evacuation.host.name, reason)


def _note(evacuation: Evacuation, blocked: list[dict[str, str]], *, ended: bool) -> None:
    if ended and not blocked:
        move(evacuation, "finished", blocked=[], ended_at=Now())
        log.warning("evacuation of %s finished", evacuation.host.name)
    elif evacuation.blocked != blocked:
        Evacuation.objects.filter(id=evacuation.id).update(blocked=blocked)


def _under_way(evacuation: Evacuation) -> int:
    rows = Operation.objects.filter(kind="instance_evacuate", state__in=states.OPERATION_OPEN)
    return rows.filter(input__evacuation=str(evacuation.id)).count()


def _row(fate: Fate) -> dict[str, str]:
    return {
        "instance": str(fate.instance.id),
        "name": fate.instance.name,
        "code": fate.code,
        "message": fate.message[:1000],
    }
