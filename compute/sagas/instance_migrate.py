"""Move a running VM to another host, live. The service has claimed its room there, as the migration's.

The source is asked again and again while its hypervisor copies the guest to the destination's; cancel and deadline are part
of the question. However that ends, both ends are looked at, and the verdict is told from what they show alone
(`compute.sagas.verdict`). A guest that has moved is the destination's at once, in the books too; from then on nothing is
taken back: what is left to do is asked for until it is done, or owed by a source that is not there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from django.db.models.functions import Now

from compute.models import Host, Migration
from compute.sagas.instance_steps import record_power
from compute.sagas.moving import (
    PAUSE_SECONDS,
    QUESTION_SECONDS,
    finish_failed,
    is_fenced,
    leave,
    migration_of,
    order_of,
    settle_books,
    spec_of,
)
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
RECEIVE_SECONDS = 60.0


# -- the destination gets ready


def _begin(context: Context) -> None:
    move(migration_of(context), "preparing", started_at=Now())


def _receive(context: Context) -> HostOrder:
    migration = migration_of(context)
    source = Host.objects.get(id=migration.source_id)
    return order_of(
        migration.destination_id,
        "instance.receive",
        RECEIVE_SECONDS,
        spec=spec_of(context),
        storage_id=source.facts.get("shared_storage_id", ""),
    )


def _note_obstacles(context: Context, result: dict[str, Any]) -> None:
    context.scratch["obstacles"] = result.get("obstacles") or {}
    context.scratch["landing"] = result.get("landing") or {}


def _withdraw_there(context: Context) -> HostOrder | None:
    """Take away what the destination has of it: ports, an incoming copy. Refused by the host where it runs."""
    if context.scratch.get("obstacles"):
        return None  # nothing was made, and what is in the way is not ours to take away
    return _withdraw_copy(context, migration_of(context))


def _withdraw_copy(context: Context, migration: Migration) -> HostOrder:
    return order_of(migration.destination_id, "instance.withdraw", QUESTION_SECONDS * 2, paused_too=True)


# -- the source copies it, and both ends tell where it is


def _transfer(context: Context, reply: Reply | None) -> HostOrder | Wait | None:
    scratch = context.scratch
    if scratch.get("obstacles"):
        sentences = "; ".join(f"{code}: {text}" for code, text in sorted(scratch["obstacles"].items()))
        raise StepFailed("destination_not_ready", "The destination cannot take the instance.", sentences)
    migration = migration_of(context)
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
    return order_of(
        migration.source_id,
        "instance.migrate",
        QUESTION_SECONDS,
        spec=spec_of(context),
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
    """Of a job that is called off, or was given up, the hypervisor counts nothing: the last figures from while it ran stand for it."""
    if status.total_bytes or not before:
        return status
    last = MigrationStatus.from_json(before)
    if status.ended:
        last = dataclasses.replace(last, downtime_ms=0.0, eta_seconds=None)
    return dataclasses.replace(last, ended=status.ended, code=status.code, message=status.message)


def _share(status: MigrationStatus) -> float:
    return 0.0 if not status.total_bytes else min(1.0, status.done_bytes / status.total_bytes)


def _ask_look(context: Context, migration: Migration, side: str) -> HostOrder:
    context.scratch["asked"] = side
    host_id = migration.source_id if side == "source" else migration.destination_id
    return order_of(host_id, "instance.look", QUESTION_SECONDS)


def _hear_look(context: Context, migration: Migration, reply: Reply | None) -> HostOrder | Wait | None:
    scratch = context.scratch
    if scratch["asked"] in ("resume", "recall"):
        # Whether it was heard or not: what both ends show next decides.
        return _ask_look(context, migration, "source")
    if reply is None:  # after a pause
        return _ask_look(context, migration, "source")
    side = scratch["asked"]
    scratch[side] = reply.result if reply.outcome == "done" else None
    if reply.outcome == "silent" and is_fenced(migration.source_id if side == "source" else migration.destination_id):
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
            settle_books(context, migration, power="running")
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
            return order_of(
                migration.source_id, "instance.adopt", QUESTION_SECONDS * 2, spec=spec_of(context), resume=True
            )
        case "ended":
            raise StepFailed("guest_ended", "The guest ended while it was on its way.", _seen(source, destination))
        case "wait":
            return Wait(PAUSE_SECONDS)
        case "unclear" if is_fenced(migration.source_id):
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


# -- after the point of no return: asked for until it is done


def _adopt(context: Context, reply: Reply | None) -> HostOrder | Wait | None:
    if reply is None:
        migration = migration_of(context)
        return order_of(
            migration.destination_id, "instance.adopt", QUESTION_SECONDS * 2, spec=spec_of(context), resume=False
        )
    if reply.outcome == "done":
        record_power(context, reply.result)
        return None
    if reply.outcome == "never" and reply.code == "domain_absent":
        return None  # it ended meanwhile: the tenant's wish decides, at its new host
    if reply.outcome == "never" and reply.code != "stale_token":
        raise StepStuck(f"its new host does not take it on: {reply.message}")
    if reply.outcome == "silent" and is_fenced(migration_of(context).destination_id):
        return None  # it is lost with its new host, and is evacuated from there once this has ended
    return Wait(PAUSE_SECONDS)


SAGA = Saga(
    kind="instance_migrate",
    target_type="instance",
    steps=(
        LocalStep("begin", do=_begin),
        HostStep("receive", call=_receive, done=_note_obstacles, undo=_withdraw_there),
        TalkStep("transfer", say=_transfer),
        TalkStep("adopt", say=_adopt),
        TalkStep("leave", say=leave),
    ),
    finish_failed=finish_failed,
    cancellable=True,
)
