"""What orders to take an instance to another host have in common: obstacles, the claim, the work order, the records."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from compute import outbox
from compute.errors import NotMovable, NoValidHost
from compute.models import Decision, Domain, Host, Instance, Migration, Operation, Port
from compute.placement.groups import Members
from compute.placement.kept import KEPT
from compute.placement.place import Refused, place
from compute.scheduler import explain
from compute.scheduler.model import Policy, Ranking, Request
from compute.scheduler.ranking import rank
from compute.services import decisions
from compute.services.lost_guests import networks_of, request_of
from tenants.errors import NotFound
from tenants.models.ids import new_id
from tenants.services import audit, tree
from tenants.services.access import Actor, authorize


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an instance cannot be taken elsewhere. `code` is stable."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class MigrationCheck:
    """What an order would meet now. `destination` is the best host, or the one asked for, where it can go there."""

    instance: Instance
    source: Host | None
    destination: Host | None
    obstacles: list[Obstacle]


def check_elsewhere(
    *,
    actor: Actor,
    instance_id: uuid.UUID,
    destination: Host | None,
    find_obstacles: Callable[[Instance], list[Obstacle]],
    ask: Callable[[Instance], Request | None],
) -> MigrationCheck:
    """Return what an order would meet now, every obstacle of it; nothing is taken. `ask` None: no host is to be looked for.

    Raises NotFound, PermissionDenied.
    """
    rows = Instance.unscoped.select_related("tenant", "host__pool", "pool", "flavor", "image", "group")
    instance = rows.filter(id=instance_id).exclude(state="deleted").first()
    if instance is None:
        raise NotFound
    authorize(actor, "instance.migrate", instance.tenant_id)
    obstacles = find_obstacles(instance)
    chosen = None
    request = ask(instance) if instance.host is not None else None
    if request is not None:
        members = Members.of(request, without=instance.id)
        policy = Policy(name=instance.pool.policy)
        ranking = rank(members.shown(KEPT.look(instance.pool_id)), members.told(request), policy)
        if ranking.candidates:
            chosen = Host.objects.get(id=uuid.UUID(ranking.candidates[0].host_id))
        elif not (destination is not None and destination.id == instance.host_id):
            obstacles.append(Obstacle("no_valid_host", " ".join(reasons_of(ranking))))
    return MigrationCheck(instance, instance.host, chosen if not obstacles else None, obstacles)


def place_obstacles(instance: Instance, source: Host, destination: Host | None) -> list[Obstacle]:
    """Return what is in the way of any order, live or cold: what it has of its host, its storage, where it is to go."""
    found = []
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


def power_of(instance: Instance) -> str | None:
    """Return the power that its host reported last, None where it has said nothing yet."""
    return Domain.objects.filter(instance=instance, host=instance.host_id).values_list("power", flat=True).first()


def request_elsewhere(instance: Instance, destination: Host | None) -> Request:
    """Return the instance as it would be asked for today, of any host but its own, or of `destination`."""
    assert instance.host is not None
    networks = networks_of(Port.unscoped.filter(instance=instance)).get(instance.id, frozenset())
    return dataclasses.replace(
        request_of(instance, instance.host, networks),
        forbidden_hosts=frozenset({str(instance.host_id)}),
        target_host=str(destination.id) if destination is not None else None,
    )


def refuse_obstacles(sentence: str, obstacles: Sequence[Obstacle]) -> None:
    """Raises NotMovable, with all of them, where there are any."""
    if obstacles:
        raise NotMovable(
            " ".join([sentence, *(obstacle.detail for obstacle in obstacles)]),
            obstacles=[dataclasses.asdict(obstacle) for obstacle in obstacles],
        )


def submit_move(
    *,
    actor: Actor,
    kind: str,
    instance: Instance,
    arguments: dict[str, Any],
    plan_id: uuid.UUID | None,
    request_key: uuid.UUID | None,
    deadline_seconds: int,
) -> Operation:
    """Write the work order. Raises OperationInProgress."""
    return outbox.submit(
        actor=actor,
        kind=kind,
        target_type="instance",
        target_id=instance.id,
        target_name=instance.name,
        tenant_id=instance.tenant_id,
        arguments={**arguments, **({"plan": str(plan_id)} if plan_id else {})},
        request_key=request_key,
        deadline_seconds=deadline_seconds,
    )


def claim_elsewhere(instance: Instance, migration_id: uuid.UUID, request: Request) -> tuple[Host, Decision]:
    """Claim room on another host for a migration to be written, and store the decision. Raises NoValidHost with `reasons`."""
    tree.hold_at(instance.tenant_id)
    policy = Policy(name=instance.pool.policy)
    outcome = place(consumers=[migration_id], request=request, policy=policy, moving=instance.id)
    if isinstance(outcome, Refused):
        reasons = reasons_of(outcome.ranking)
        raise NoValidHost(f"No host can take {instance.name} now. " + " ".join(reasons), reasons=reasons)
    host = Host.objects.get(id=outcome.hosts[migration_id])
    decision = decisions.placed_decision(
        decision_id=new_id(),
        tenant_id=instance.tenant_id,
        placed=dataclasses.replace(outcome, hosts={instance.id: host.id}),
        request=outcome.request,
        policy=policy,
        name=instance.name,
        recording=instance.pool.recording,
    )
    decision.save(force_insert=True)
    return host, decision


def record_move(*, actor: Actor, action: str, instance: Instance, migration: Migration) -> None:
    """Write the audit row. Its tenant reads it: no host, nor the operators' reason. Both stand in the migration."""
    audit.record(
        actor=actor,
        action=action,
        tenant=instance.tenant_id,
        target=instance,
        operation_id=migration.operation_id,
        after={"migration": str(migration.id)},
    )


def reasons_of(ranking: Ranking) -> list[str]:
    """Return why no host was found, in sentences without host names."""
    return list(explain.tenant_summary(ranking))
