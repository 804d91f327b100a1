"""Move an instance to another host while it does not run. The service has claimed its room there, as the migration's.

A stopped one moves in the books alone: its disk lies in storage that both hosts see, and its next start makes the rest. One
that runs is stopped first, which somebody has agreed to, and started at the destination; until that is seen to run it, both
hosts hold room for it. Where the destination cannot start it, it is started again where it was, but never before the
destination was seen not to run it, or proved to be off: silence is no answer.
"""

from __future__ import annotations

from django.db.models.functions import Now

from compute.models import Migration
from compute.sagas.instance_steps import START_DEADLINE_SECONDS, clear_error, start_call, stop_call
from compute.sagas.moving import (
    PAUSE_SECONDS,
    QUESTION_SECONDS,
    finish_failed,
    is_fenced,
    leave,
    migration_of,
    order_of,
    owe_withdrawal,
    settle_books,
    spec_of,
)
from compute.sagas.step import Context, HostOrder, HostStep, LocalStep, Reply, Saga, StepFailed, TalkStep, Wait
from compute.transitions import move
from compute.wire import DomainLook, WireError

START_TRIES = 3


def _begin(context: Context) -> None:
    move(migration_of(context), "preparing", started_at=Now())


def _stop(context: Context) -> HostOrder | None:
    return stop_call(context) if context.input["running"] else None


def _start_again(context: Context) -> HostOrder | None:
    return start_call(context) if context.input["running"] else None


def _arrive(context: Context, reply: Reply | None) -> HostOrder | Wait | None:
    migration, scratch = migration_of(context), context.scratch
    if not context.input["running"]:
        move(migration, "running")
        settle_books(context, migration, power="absent")
        return None
    match scratch.get("asked"):
        case None:
            if context.cancel_requested or context.out_of_time:
                code = "cancelled" if context.cancel_requested else "deadline"
                raise StepFailed(code, _WHY[code])
            move(migration, "running")
            return _ask_start(context, migration)
        case "start" if reply is not None:
            return _hear_start(context, migration, reply)
        case "look" if reply is not None:
            return _hear_look(context, migration, reply)
        case "withdraw" if reply is not None and reply.outcome == "done":
            raise StepFailed(*_end(context))
    return _ask_look(context, migration)  # after a pause, or a withdrawal that may not have come about


def _ask_start(context: Context, migration: Migration) -> HostOrder:
    context.scratch["asked"] = "start"
    context.scratch["tries"] = context.scratch.get("tries", 0) + 1
    return order_of(migration.destination_id, "instance.start", START_DEADLINE_SECONDS, spec=spec_of(context))


def _ask_look(context: Context, migration: Migration) -> HostOrder:
    context.scratch["asked"] = "look"
    return order_of(migration.destination_id, "instance.look", QUESTION_SECONDS)


def _hear_start(context: Context, migration: Migration, reply: Reply) -> HostOrder | None:
    if reply.outcome == "done":
        _arrived(context, migration)
        return None
    if reply.outcome == "never" and reply.code != "stale_token":
        context.scratch["end"] = {"code": reply.code, "message": reply.message}
    return _ask_look(context, migration)


def _hear_look(context: Context, migration: Migration, reply: Reply) -> HostOrder | Wait | None:
    scratch = context.scratch
    if reply.outcome == "silent" and is_fenced(migration.destination_id):
        scratch["owed_there"] = True
        raise StepFailed("destination_lost", _WHY["destination_lost"])
    seen = _look(reply)
    if seen is None:
        return Wait(PAUSE_SECONDS)
    if seen.power == "running":
        _arrived(context, migration)
        return None
    if "end" in scratch or scratch["tries"] >= START_TRIES or context.cancel_requested or context.out_of_time:
        scratch["asked"] = "withdraw"
        return order_of(migration.destination_id, "instance.withdraw", QUESTION_SECONDS * 2, paused_too=True)
    return _ask_start(context, migration)


def _look(reply: Reply) -> DomainLook | None:
    try:
        return DomainLook.from_json(reply.result) if reply.outcome == "done" else None
    except WireError:
        return None  # a host of another release, which says nothing that could be read


def _arrived(context: Context, migration: Migration) -> None:
    settle_books(context, migration, power="running")
    clear_error(context)


def _end(context: Context) -> tuple[str, str, str]:
    """Return why it goes back: code, sentence for its tenant, words of the host for operators."""
    if context.cancel_requested:
        return "cancelled", _WHY["cancelled"], ""
    end = context.scratch.get("end")
    if end is None:
        return "deadline", _WHY["deadline"], ""
    return "destination_refused", _WHY["destination_refused"], f"{end['code']}: {end['message']}"


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    if context.scratch.get("owed_there"):
        owe_withdrawal(context, migration_of(context).destination_id)
    finish_failed(context, error)


_WHY = {
    "cancelled": "Cancelled on request; the instance is where it was.",
    "deadline": "It was not done in time; the instance is where it was.",
    "destination_refused": "The other host could not start it; the instance is where it was.",
    "destination_lost": "The other host was lost; the instance is where it was.",
}

SAGA = Saga(
    kind="instance_move",
    target_type="instance",
    steps=(
        LocalStep("begin", do=_begin),
        HostStep("stop", call=_stop, undo=_start_again),
        TalkStep("arrive", say=_arrive),
        TalkStep("leave", say=leave),
    ),
    finish_failed=_finish_failed,
    cancellable=True,
)
