"""Cold moves: an instance goes to another host while it does not run; by operators. One that runs is stopped only with a word."""

from __future__ import annotations

import uuid
from typing import Final

from django.db import transaction

from compute.models import Host, Instance, Migration, Operation
from compute.services.elsewhere import (
    MigrationCheck,
    Obstacle,
    check_elsewhere,
    claim_elsewhere,
    place_obstacles,
    power_of,
    record_move,
    refuse_obstacles,
    request_elsewhere,
    submit_move,
)
from compute.services.locking import lock_instance
from tenants.models.ids import new_id
from tenants.services.access import Actor

DEADLINE_SECONDS: Final = 900


def check_move(
    *, actor: Actor, instance_id: uuid.UUID, destination: Host | None = None, stop: bool = False
) -> MigrationCheck:
    """Return what `move_instance` would meet now, every obstacle of it; nothing is taken. Raises NotFound, PermissionDenied."""
    return check_elsewhere(
        actor=actor,
        instance_id=instance_id,
        destination=destination,
        find_obstacles=lambda instance: cold_obstacles(instance, destination, stop=stop, power=power_of(instance)),
        ask=lambda instance: request_elsewhere(instance, destination),
    )


def move_instance(
    *,
    actor: Actor,
    instance_id: uuid.UUID,
    destination: Host | None = None,
    stop: bool = False,
    reason: str = "",
    if_version: int | None = None,
    request_key: uuid.UUID | None = None,
) -> tuple[Migration, Operation]:
    """Order a cold move to `destination`, or to the host that suits best. Its room there is claimed now.

    `stop`: one that runs is stopped for it and started at its new host; without that word a running one is refused.
    Raises NotFound, PermissionDenied, VersionMismatch, OperationInProgress; NotMovable with `obstacles`; NoValidHost
    with `reasons`.
    """
    with transaction.atomic(durable=True):
        instance = lock_instance(
            actor=actor, instance_id=instance_id, permission="instance.migrate", if_version=if_version
        )
        return order_move(
            actor=actor, instance=instance, destination=destination, stop=stop, reason=reason, request_key=request_key
        )


def order_move(
    *,
    actor: Actor,
    instance: Instance,
    destination: Host | None = None,
    stop: bool = False,
    reason: str = "",
    request_key: uuid.UUID | None = None,
    plan_id: uuid.UUID | None = None,
) -> tuple[Migration, Operation]:
    """`move_instance` for an instance whose row the caller has locked. `plan_id`: the plan that it is a step of."""
    migration_id = new_id()
    operation = submit_move(
        actor=actor,
        kind="instance_move",
        instance=instance,
        arguments={"migration": str(migration_id), "running": instance.desired_power == "running"},
        plan_id=plan_id,
        request_key=request_key,
        deadline_seconds=DEADLINE_SECONDS,
    )
    refuse_obstacles(
        f"{instance.name} cannot be moved.", cold_obstacles(instance, destination, stop=stop, power=power_of(instance))
    )
    assert instance.host is not None  # or it would be an obstacle
    host, decision = claim_elsewhere(instance, migration_id, request_elsewhere(instance, destination))
    migration = Migration.objects.create(
        id=migration_id,
        instance=instance,
        source=instance.host,
        destination=host,
        operation=operation,
        decision_id=decision.id,
        way="cold",
        reason=reason[:255],
        actor=actor.username,
    )
    record_move(actor=actor, action="instance.move", instance=instance, migration=migration)
    return migration, operation


def cold_obstacles(instance: Instance, destination: Host | None, *, stop: bool, power: str | None) -> list[Obstacle]:
    """Return every reason that lies with the instance and its host; what other hosts lack is the ranking's to say.

    `power` is the host's last word on it.
    """
    found = []
    source = instance.host
    if instance.state != "active" or source is None:
        return [Obstacle("not_active", f"It is {instance.state}; only an active instance can be moved.")]
    if instance.desired_power == "running" and not stop:
        found.append(Obstacle("would_stop", "It runs, and would be stopped for it: say that this is agreed."))
    elif instance.desired_power not in ("running", "stopped"):
        found.append(Obstacle("would_lose_memory", f"It is {instance.desired_power}: a stop would lose its memory."))
    elif instance.desired_power == "stopped" and power in ("running", "paused"):
        found.append(Obstacle("not_stopped", f"It is {power} still, though it is to be stopped."))
    return found + place_obstacles(instance, source, destination)
