"""Move a running VM to another host, live. The service has claimed its room there, as the migration's.

The source is asked again and again while its hypervisor copies the guest to the destination's; cancel and deadline are part
of the question. However that ends, both ends are looked at, and the verdict is told from what they show alone
(`compute.sagas.verdict`). A guest that has moved is the destination's at once, in the books too; from then on nothing is
taken back: what is left to do is asked for until it is done, or owed by a source that is not there.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from compute import outbox
from compute.models import Domain, Host, Instance, Migration
from compute.placement.claims import hand_over, release
from compute.sagas.instance_steps import record_power
from compute.sagas.spec import instance_spec, load_instance
from compute.sagas.step import (
    Context,
    HostOrder,
    HostStep,
    LocalStep,
    Reply,
    Saga,
    StepFailed,
    StepStuck,
    TalkStep,
    Wait,
)
from compute.sagas.verdict import judge
from compute.transitions import move
from compute.wire import DomainLook, MigrationStatus, WireError

DEAF_LIMIT = 5  # questions in a row without an answer about the job, before both ends are looked at instead
LOOK_LIMIT = 12  # looks that show a state between two others, or tries to set it going, before an operator has to look
PAUSE_SECONDS = 5.0
RECEIVE_SECONDS = 60.0
QUESTION_SECONDS = 30.0


def _migration(context: Context) -> Migration:
    return Migration.objects.get(id=uuid.UUID(context.input["migration"]))


def _order(context: Context, host_id: uuid.UUID, method: str, seconds: float, **arguments: Any) -> HostOrder:
    return HostOrder(host_id=host_id, method=method, arguments=arguments, deadline_seconds=seconds)


def _spec(context: Context) -> dict[str, Any]:
    return instance_spec(load_instance(context.target_id)).to_json()


# -- the destination gets ready


def _begin(context: Context) -> None:
    move(_migration(context), "preparing", started_at=Now())


def _receive(context: Context) -> HostOrder:
    migration = _migration(context)
    source = Host.objects.get(id=migration.source_id)
    return _order(
        context,
        migration.destination_id,
        "instance.receive",
        RECEIVE_SECONDS,
        spec=_spec(context),
        storage_id=source.facts.get("shared_storage_id", ""),
    )


def _note_obstacles(context: Context, result: dict[str, Any]) -> None:
    context.scratch["obstacles"] = result.get("obstacles") or {}
    context.scratch["landing"] = result.get("landing") or {}


def _withdraw_there(context: Context) -> HostOrder | None:
    """Take away what the destination has of it: ports, an incoming copy. Refused by the host where it runs."""
    if context.scratch.get("obstacles"):
        return None  # nothing was made, and what is in the way is not ours to take away
    return _withdraw_copy(context, _migration(context))


def _withdraw_copy(context: Context, migration: Migration) -> HostOrder:
    return _order(context, migration.destination_id, "instance.withdraw", QUESTION_SECONDS * 2, paused_too=True)


# -- the source copies it, and both ends tell where it is


def _transfer(context: Context, reply: Reply | None) -> HostOrder | Wait | None:
    scratch = context.scratch
    if scratch.get("obstacles"):
        sentences = "; ".join(f"{code}: {text}" for code, text in sorted(scratch["obstacles"].items()))
        raise StepFailed("destination_not_ready", "The destination cannot take the instance.", sentences)
    migration = _migration(context)
    if migration.state == "preparing":
        move(migration, "running")
    if scratch.get("asked") is None:
        return _ask_job(context, migration)
    if scratch["asked"] == "job":
        return _hear_job(context, migration, reply)
    return _hear_look(context, migration, reply)


def _ask_job(context: Context, migration: Migration) -> HostOrder:
    context.scratch["asked"] = "job"
    stop = context.cancel_requested or context.out_of_time
    return _order(
        context,
        migration.source_id,
        "instance.migrate",
        QUESTION_SECONDS,
        spec=_spec(context),
        job={**migration.job, "landing": context.scratch["landing"]},
        stop=stop,
    )


def _hear_job(context: Context, migration: Migration, reply: Reply | None) -> HostOrder | Wait:
    if reply is None:  # after a pause
        return _ask_job(context, migration)
    if reply.outcome == "done":
        status = MigrationStatus.from_json(reply.result)
        context.scratch["deaf"] = 0
        Migration.objects.filter(id=migration.id).update(status=_with_figures(status, migration.status).to_json())
        context.scratch["share"] = _share(status)
        if not status.ended:
            return _ask_job(context, migration)
        context.scratch["end"] = {"code": status.code, "message": status.message}
        return _ask_look(context, migration, "source")
    context.scratch["deaf"] = deaf = context.scratch.get("deaf", 0) + 1
    context.scratch["end"] = {"code": reply.code, "message": reply.message}
    if reply.outcome in ("never", "silent") or deaf > DEAF_LIMIT:
        return _ask_look(context, migration, "source")
    return Wait(min(PAUSE_SECONDS, float(deaf)))


def _with_figures(status: MigrationStatus, before: dict[str, Any] | None) -> MigrationStatus:
    """Of a job that was given up the hypervisor keeps no figures: the last ones from while it ran stand for it."""
    if not status.ended or status.total_bytes or not before:
        return status
    last = MigrationStatus.from_json(before)
    return dataclasses.replace(
        last, ended=status.ended, code=status.code, message=status.message, downtime_ms=0.0, eta_seconds=None
    )


def _share(status: MigrationStatus) -> float:
    return 0.0 if not status.total_bytes else min(1.0, status.done_bytes / status.total_bytes)


def _ask_look(context: Context, migration: Migration, side: str) -> HostOrder:
    context.scratch["asked"] = side
    host_id = migration.source_id if side == "source" else migration.destination_id
    return _order(context, host_id, "instance.look", QUESTION_SECONDS)


def _hear_look(context: Context, migration: Migration, reply: Reply | None) -> HostOrder | Wait | None:
    scratch = context.scratch
    if scratch["asked"] in ("resume", "recall"):
        # Whether it was heard or not: what both ends show next decides.
        return _ask_look(context, migration, "source")
    if reply is None:  # after a pause
        return _ask_look(context, migration, "source")
    side = scratch["asked"]
    scratch[side] = reply.result if reply.outcome == "done" else None
    if reply.outcome == "silent" and _is_fenced(migration.source_id if side == "source" else migration.destination_id):
        scratch[side] = DomainLook("absent").to_json()  # it was proved to be off: no silence, but an answer
    if side == "source":
        return _ask_look(context, migration, "destination")
    return _conclude(context, migration, _look(scratch["source"]), _look(scratch["destination"]))


def _look(seen: dict[str, Any] | None) -> DomainLook | None:
    try:
        return None if seen is None else DomainLook.from_json(seen)
    except WireError:
        return None  # a host of another release, which says nothing that could be read


def _conclude(
    context: Context, migration: Migration, source: DomainLook | None, destination: DomainLook | None
) -> HostOrder | Wait | None:
    end = context.scratch.get("end") or {}
    match judge(source, destination):
        case "moved":
            _settle_books(context, migration)
            return None
        case "going":
            context.scratch["asked"] = "job"
            return Wait(1.0)
        case "stayed":
            code = end.get("code") or "stayed"
            if code == "cancelled" and not context.cancel_requested:
                code = "deadline"  # it was asked to stop all the same
            raise StepFailed(code, _why(code), end.get("message", ""))
        case "resume" | "recall" as wanted:
            _count_look(context, source, destination, "it stays paused")
            context.scratch["asked"] = wanted
            if wanted == "recall":
                return _withdraw_copy(context, migration)
            # Not a start, which would boot it a second time had it just ended there.
            return _order(
                context, migration.source_id, "instance.adopt", QUESTION_SECONDS * 2, spec=_spec(context), resume=True
            )
        case "ended":
            raise StepFailed("guest_ended", "The guest ended while it was on its way.", _seen(source, destination))
        case "wait":
            return Wait(PAUSE_SECONDS)
        case "unclear" if _is_fenced(migration.source_id):
            # Nobody is left who could finish that copy. It is taken away; the disk has what the guest had written.
            raise StepFailed("source_lost", _WHY["source_lost"], _seen(source, destination))
        case verdict:
            split = verdict == "split"
            _count_look(context, source, destination, "it runs at both ends" if split else "neither end lets it run")
            return Wait(PAUSE_SECONDS)


def _count_look(context: Context, source: DomainLook | None, destination: DomainLook | None, finding: str) -> None:
    """Look again for a while, then have a person look. Asked once more by one, it is looked at as often again."""
    context.scratch["looks"] = looks = context.scratch.get("looks", 0) + 1
    if looks > LOOK_LIMIT:
        context.scratch["looks"] = 0
        raise StepStuck(f"{finding}: {_seen(source, destination)}")


def _seen(source: DomainLook | None, destination: DomainLook | None) -> str:
    return ", ".join(
        f"{name} {'unheard' if look is None else look.power}"
        for name, look in (("source", source), ("destination", destination))
    )


_WHY = {
    "source_lost": "Its host was lost while it was on its way.",
    "cancelled": "Cancelled on request; the instance runs on where it was.",
    "deadline": "It was not done in time; the instance runs on where it was.",
    "not_converging": "The guest writes faster than its memory can be copied; it runs on where it was.",
    "destination_refused": "The destination did not take it; the instance runs on where it was.",
}


def _why(code: str) -> str:
    return _WHY.get(code, "The migration did not succeed; the instance runs on where it was.")


def _settle_books(context: Context, migration: Migration) -> None:
    """The destination's room becomes the instance's, the source's is given back: in the turn that saw it run there."""
    Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    hand_over(migration_id=migration.id, instance_id=context.target_id)
    # A listing of the source may still tell of it; what it has of it from now on is to be withdrawn.
    Domain.objects.filter(instance_id=context.target_id).delete()
    Instance.unscoped.filter(id=context.target_id).update(
        host=migration.destination_id, decision_id=migration.decision_id, version=F("version") + 1
    )
    record_power(context, {"power": "running"})


# -- after the point of no return: asked for until it is done


def _adopt(context: Context, reply: Reply | None) -> HostOrder | Wait | None:
    if reply is None:
        migration = _migration(context)
        return _order(
            context, migration.destination_id, "instance.adopt", QUESTION_SECONDS * 2, spec=_spec(context), resume=False
        )
    if reply.outcome == "done":
        record_power(context, reply.result)
        return None
    if reply.outcome == "never" and reply.code == "domain_absent":
        return None  # it ended meanwhile: the tenant's wish decides, at its new host
    if reply.outcome == "never" and reply.code != "stale_token":
        raise StepStuck(f"its new host does not take it on: {reply.message}")
    if reply.outcome == "silent" and _is_fenced(_migration(context).destination_id):
        return None  # it is lost with its new host, and is evacuated from there once this has ended
    return Wait(PAUSE_SECONDS)


def _leave(context: Context, reply: Reply | None) -> HostOrder | Wait | None:
    migration = _migration(context)
    if reply is None:
        return _order(context, migration.source_id, "instance.withdraw", QUESTION_SECONDS * 2, paused_too=True)
    if reply.outcome == "done":
        # Here and not in a step of its own, before which a cancel or the deadline could still turn it back.
        move(migration, "completed", finished_at=Now())
        return None
    if reply.outcome == "never" and reply.code != "stale_token":
        raise StepStuck(f"the source does not let go of it: {reply.message}")
    if reply.outcome == "silent" and _is_gone(migration.source_id):
        # Paid before anything else when it returns: were it to run there as well, that copy would be the stale one.
        outbox.write_call(
            host_id=migration.source_id,
            method="instance.withdraw",
            target_type="instance",
            target_id=context.target_id,
            arguments={"paused_too": True, "running_too": True},
            deadline_seconds=QUESTION_SECONDS * 2,
            purpose="debt",
        )
        move(migration, "completed", finished_at=Now())
        return None
    return Wait(PAUSE_SECONDS)


def _is_gone(host_id: uuid.UUID) -> bool:
    return Host.objects.filter(id=host_id, observed_state__in=["down", "fenced"]).exists()


def _is_fenced(host_id: uuid.UUID) -> bool:
    return Host.objects.filter(id=host_id, observed_state="fenced").exists()


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    migration = _migration(context)
    Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    release(consumer_type="migration", consumer_id=migration.id)
    ended = "aborted" if error["code"] == "cancelled" else "failed"
    move(migration, ended, error=error, finished_at=Now())


SAGA = Saga(
    kind="instance_migrate",
    target_type="instance",
    steps=(
        LocalStep("begin", do=_begin),
        HostStep("receive", call=_receive, done=_note_obstacles, undo=_withdraw_there),
        TalkStep("transfer", say=_transfer),
        TalkStep("adopt", say=_adopt),
        TalkStep("leave", say=_leave),
    ),
    finish_failed=_finish_failed,
    cancellable=True,
)
