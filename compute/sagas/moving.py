"""What a live migration and a cold move have in common: the migration's row, the books, and the host that is left."""

from __future__ import annotations

import uuid
from typing import Any, Final

from django.db.models import F
from django.db.models.functions import Now

from compute import outbox
from compute.models import Domain, Host, Instance, Migration
from compute.placement.claims import hand_over, release
from compute.sagas.instance_steps import record_power
from compute.sagas.spec import instance_spec, load_instance
from compute.sagas.step import Context, HostOrder, Reply, StepStuck, Wait
from compute.transitions import move

PAUSE_SECONDS: Final = 5.0
QUESTION_SECONDS: Final = 30.0


def migration_of(context: Context) -> Migration:
    """Return the row of the move that the operation carries out."""
    return Migration.objects.get(id=uuid.UUID(context.input["migration"]))


def order_of(host_id: uuid.UUID, method: str, seconds: float, **arguments: Any) -> HostOrder:
    """Return an order for either end; `seconds` is its deadline."""
    return HostOrder(host_id=host_id, method=method, arguments=arguments, deadline_seconds=seconds)


def spec_of(context: Context) -> dict[str, Any]:
    """Return the instance as hosts are told of it."""
    return instance_spec(load_instance(context.target_id)).to_json()


def settle_books(context: Context, migration: Migration, *, power: str) -> None:
    """The destination's room becomes the instance's, the source's is given back: in the turn that saw it run there."""
    Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    hand_over(migration_id=migration.id, instance_id=context.target_id)
    # A listing of the source may still tell of it; what it has of it from now on is to be withdrawn.
    Domain.objects.filter(instance_id=context.target_id).delete()
    Instance.unscoped.filter(id=context.target_id).update(
        host=migration.destination_id, decision_id=migration.decision_id, version=F("version") + 1
    )
    record_power(context, {"power": power})


def leave(context: Context, reply: Reply | None) -> HostOrder | Wait | None:
    """The last step: nothing of it stays at the source but what lies in the shared storage. See TalkStep.say."""
    migration = migration_of(context)
    if reply is None:
        return order_of(migration.source_id, "instance.withdraw", QUESTION_SECONDS * 2, paused_too=True)
    if reply.outcome == "done":
        # Here and not in a step of its own, before which a cancel or the deadline could still turn it back.
        move(migration, "completed", finished_at=Now())
        return None
    if reply.outcome == "never" and reply.code != "stale_token":
        raise StepStuck(f"the source does not let go of it: {reply.message}")
    if reply.outcome == "silent" and is_gone(migration.source_id):
        owe_withdrawal(context, migration.source_id)
        move(migration, "completed", finished_at=Now())
        return None
    return Wait(PAUSE_SECONDS)


def owe_withdrawal(context: Context, host_id: uuid.UUID) -> None:
    """Paid before anything else when the host returns: were it to run there as well, that copy would be the stale one."""
    outbox.write_call(
        host_id=host_id,
        method="instance.withdraw",
        target_type="instance",
        target_id=context.target_id,
        arguments={"paused_too": True, "running_too": True},
        deadline_seconds=QUESTION_SECONDS * 2,
        purpose="debt",
    )


def is_gone(host_id: uuid.UUID) -> bool:
    """Return whether the host is not heard, so that what it is asked for has to be owed."""
    return Host.objects.filter(id=host_id, observed_state__in=["down", "fenced"]).exists()


def is_fenced(host_id: uuid.UUID) -> bool:
    """Return whether the host is proved to be off: its silence is an answer."""
    return Host.objects.filter(id=host_id, observed_state="fenced").exists()


def finish_failed(context: Context, error: dict[str, str]) -> None:
    """End a move that did not come about: the room at the destination is given back."""
    migration = migration_of(context)
    Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    release(consumer_type="migration", consumer_id=migration.id)
    ended = "aborted" if error["code"] == "cancelled" else "failed"
    move(migration, ended, error=error, finished_at=Now())
