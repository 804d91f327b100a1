"""Cold moves: an instance goes to another host while it does not run; by operators. One that runs is stopped only with a word."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Final

from django.db import transaction

from compute.models import Domain, Host, Instance, Migration, Operation, Port
from compute.placement.groups import Members
from compute.placement.kept import KEPT
from compute.scheduler.model import Policy, Request
from compute.scheduler.ranking import rank
from compute.services.elsewhere import (
    Obstacle,
    claim_elsewhere,
    reasons_of,
    record_move,
    refuse_obstacles,
    submit_move,
)
from compute.services.locking import lock_instance
from compute.services.lost_guests import networks_of, request_of
from compute.services.migrations import MigrationCheck
from tenants.errors import NotFound
from tenants.models.ids import new_id
from tenants.services.access import Actor, authorize

DEADLINE_SECONDS: Final = 900


def check_move(
    *, actor: Actor, instance_id: uuid.UUID, destination: Host | None = None, stop: bool = False
) -> MigrationCheck:
    """Return what `move_instance` would meet now, every obstacle of it; nothing is taken. Raises NotFound, PermissionDenied."""
    rows = Instance.unscoped.select_related("tenant", "host__pool", "pool", "flavor", "image", "group")
    instance = rows.filter(id=instance_id).exclude(state="deleted").first()
    if instance is None:
        raise NotFound
    authorize(actor, "instance.migrate", instance.tenant_id)
    obstacles = cold_obstacles(instance, destination, stop=stop)
    chosen = None
    if instance.host is not None:
        request = cold_request(instance, destination)
        members = Members.of(request, without=instance.id)
        policy = Policy(name=instance.pool.policy)
        ranking = rank(members.shown(KEPT.look(instance.pool_id)), members.told(request), policy)
        if ranking.candidates:
            chosen = Host.objects.get(id=uuid.UUID(ranking.candidates[0].host_id))
        elif not (destination is not None and destination.id == instance.host_id):
            obstacles.append(Obstacle("no_valid_host", " ".join(reasons_of(ranking))))
    return MigrationCheck(instance, instance.host, chosen if not obstacles else None, obstacles)


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
    refuse_obstacles(f"{instance.name} cannot be moved.", cold_obstacles(instance, destination, stop=stop))
    assert instance.host is not None  # or it would be an obstacle
    host, decision = claim_elsewhere(instance, migration_id, cold_request(instance, destination))
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


def cold_obstacles(instance: Instance, destination: Host | None, *, stop: bool) -> list[Obstacle]:
    """Return every reason that lies with the instance and its host; what other hosts lack is the ranking's to say."""
    found = []
    source = instance.host
    if instance.state != "active" or source is None:
        found.append(Obstacle("not_active", f"It is {instance.state}; only an active instance can be moved."))
        return found
    power = Domain.objects.filter(instance=instance, host=source).values_list("power", flat=True).first()
    if instance.desired_power == "running" and not stop:
        found.append(Obstacle("would_stop", "It runs, and would be stopped for it: say that this is agreed."))
    elif instance.desired_power not in ("running", "stopped"):
        found.append(Obstacle("would_lose_memory", f"It is {instance.desired_power}: a stop would lose its memory."))
    elif instance.desired_power == "stopped" and power in ("running", "paused"):
        found.append(Obstacle("not_stopped", f"It is {power} still, though it is to be stopped."))
    if instance.flavor.pinned or instance.flavor.numa_nodes or instance.flavor.hugepages_kib:
        found.append(Obstacle("dedicated", "It has CPUs, huge pages or NUMA cells of its own on its host."))
    if source.observed_state != "up":
        found.append(Obstacle("source_not_up", f"Its host {source.name} is {source.observed_state}."))
    storage = source.facts.get("shared_storage_id", "")
    if not storage or storage != instance.pool.shared_storage_id:
        found.append(Obstacle("storage_not_shared", f"Its host {source.name} does not see the pool's shared storage."))
    if destination is not None and destination.id == source.id:
        found.append(Obstacle("same_host", f"It is on {source.name} already."))
    elif destination is not None and destination.pool_id != instance.pool_id:
        found.append(Obstacle("another_pool", f"{destination.name} is in another pool."))
    return found


def cold_request(instance: Instance, destination: Host | None) -> Request:
    """Return the instance as it would be asked for today, of any host but its own."""
    assert instance.host is not None
    networks = networks_of(Port.unscoped.filter(instance=instance)).get(instance.id, frozenset())
    return dataclasses.replace(
        request_of(instance, instance.host, networks),
        forbidden_hosts=frozenset({str(instance.host_id)}),
        target_host=str(destination.id) if destination is not None else None,
    )
