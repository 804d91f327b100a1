"""What orders to take an instance to another host have in common: obstacles, the claim, the work order, the records."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compute import outbox
from compute.errors import NotMovable, NoValidHost
from compute.models import Decision, Host, Instance, Migration, Operation
from compute.placement.place import Refused, place
from compute.scheduler import explain
from compute.scheduler.model import Policy, Ranking, Request
from compute.services import decisions
from tenants.models.ids import new_id
from tenants.services import audit, tree
from tenants.services.access import Actor


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an instance cannot be taken elsewhere. `code` is stable."""

    code: str
    detail: str


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
