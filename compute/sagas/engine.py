"""Runs operations: one turn at a time, each turn one transaction that holds the target's and the operation's rows.

A turn does no I/O but SQL. It goes as far as it can: local steps at once, a host step until its HostCall row is
written. Then it ends; the host's answer (or a deadline) makes the next turn due. The row lock is the lease: it dies with
the session that held it, and a worker frozen in a turn loses it to `idle_in_transaction_session_timeout`, on the
database's clock. So a turn is done wholly or not at all, by one worker at a time (docs/adr/0003).

Outcomes of a host step: `done` -> next step; `retry` -> the same again with back-off; `unknown` -> the same again with a
higher token (the host observes and finishes it); `never`, too many tries, deadline or cancel -> unwind: the undos of all
steps begun so far, in reverse. An undo whose host cannot be reached becomes a debt. A talk (`TalkStep`) judges its
answers itself, also the silence of a host, and decides on cancel and deadline.
"""

from __future__ import annotations

import logging
import random
import uuid
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, InterfaceError, OperationalError, transaction

from compute import outbox, states
from compute.models import Host, HostCall, Operation
from compute.models.operation import GOES_ON
from compute.sagas.registry import saga_of
from compute.sagas.step import (
    Context,
    HostOrder,
    HostStep,
    LocalStep,
    PollStep,
    Reply,
    Saga,
    StepFailed,
    StepStuck,
    TalkStep,
    Wait,
)
from compute.transitions import move

log = logging.getLogger(__name__)

RETRY_LIMIT = 8
UNKNOWN_LIMIT = 20
UNDO_PATIENCE_SECONDS = 60.0


def take_turn(operation_id: uuid.UUID) -> bool:
    """Advance one operation as far as it goes now. Return False when it was busy, final, or not due.

    Any number of workers may call this for the same id at the same time: one of them gets the rows.
    """
    with transaction.atomic(durable=True):
        found = Operation.objects.filter(id=operation_id).values_list("target_type", "target_id").first()
        if found is None:
            return False
        # Target before operation: the order in which services lock them, so that a delete and a turn cannot deadlock.
        # No key: a host's report writes rows that point at the target, and a turn may then wait for those very rows.
        target_type, target_id = found
        if (
            target_type in outbox.TARGETS
        ):  # a tenant's row comes after hosts' rows in the order: see tenants.services.tree
            list(
                outbox.TARGETS[target_type]
                .select_for_update(of=("self",), no_key=True)
                .filter(pk=target_id)
                .values_list("pk")
            )
        operation = (
            Operation.objects.select_for_update(skip_locked=True)
            .filter(id=operation_id, state__in=states.OPERATION_DUE)
            .first()
        )
        if operation is None:
            return False
        try:
            with transaction.atomic():
                return _Turn(operation).run()
        except (OperationalError, InterfaceError):
            # Lock time-out, deadlock, lost session: the database's trouble, not the step's. The sweep comes again.
            raise
        except Exception:
            # A step that raises is a bug, not a host's fault. Its effects are rolled back with the savepoint; nothing is
            # guessed: the operation is parked for an operator, its error in the log with the traceback.
            log.exception("operation %s (%s) raised in step %s", operation.id, operation.kind, operation.step)
            operation.refresh_from_db()
            _park(operation)
            return True


def _park(operation: Operation) -> None:
    """Back off, then `stuck`: a bug must not loop faster than a person can read.

    A talk is parked where it is: past its point of no return an unwinding would take away what it has brought about.
    """
    operation.attempts += 1
    if operation.attempts <= 3 and operation.state != "pending":
        operation.next_attempt_at = outbox.database_now() + timedelta(seconds=5 * operation.attempts)
        operation.save(update_fields=["attempts", "next_attempt_at"])
        return
    if operation.state == "pending":
        move(operation, "running")
    steps = saga_of(operation.kind).steps
    if operation.state == "running" and operation.step < len(steps) and isinstance(steps[operation.step], TalkStep):
        operation.scratch[GOES_ON] = True
        operation.save(update_fields=["scratch"])
    elif operation.state == "running":
        move(operation, "unwinding")
    error = {
        "code": "internal_error",
        "message": "The operation met a fault of the control plane. The operators can see it.",
    }
    move(operation, "stuck", error=operation.error or error)


class _Turn:
    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.saga: Saga = saga_of(operation.kind)
        self.now = outbox.database_now()
        self.context = Context(operation, out_of_time=self.now >= operation.deadline_at)

    def run(self) -> bool:
        operation = self.operation
        if operation.state == "pending" and not self._begin():
            return False
        while operation.state in ("running", "unwinding"):
            if not (self._forward() if operation.state == "running" else self._backward()):
                break
        self._save()
        if operation.state in states.OPERATION_FINAL:
            self._wake_successor()
        return True

    # -- begin and end ------------------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        operation = self.operation
        older = Operation.objects.filter(
            target_type=operation.target_type,
            target_id=operation.target_id,
            state__in=states.OPERATION_OPEN,
            created_at__lt=operation.created_at,
        )
        if older.exists():
            # A delete that overtook what it waits for would pull the ground from under it.
            operation.next_attempt_at = self.now + timedelta(seconds=5)
            operation.save(update_fields=["next_attempt_at"])
            return False
        if operation.cancel_requested and self.saga.cancellable:
            # Nothing has been begun; what the service took (room, quota) still has to go back.
            operation.started_at = self.now
            move(operation, "running")
            self._fail({"code": "cancelled", "message": "Cancelled before it began."})
            return True
        try:
            with transaction.atomic():
                move(operation, "running")
        except IntegrityError:
            # The one running operation of this target is another one: wait for its end, which wakes this one.
            operation.state = "pending"
            operation.next_attempt_at = self.now + timedelta(seconds=5)
            operation.save(update_fields=["next_attempt_at"])
            return False
        operation.started_at = self.now
        operation.steps = [
            {"name": step.name, "state": "pending", "started_at": None, "finished_at": None} for step in self.saga.steps
        ]
        return True

    def _wake_successor(self) -> None:
        operation = self.operation
        if "part_of" in operation.input:
            # Not its row, which a turn may hold that waits for our target: a poll that is rung early just looks.
            outbox.ring("op", operation.input["part_of"])
        if "plan" in operation.input:
            outbox.ring("plan", operation.input["plan"])
        waiting = Operation.objects.filter(
            target_type=operation.target_type, target_id=operation.target_id, state="pending"
        ).values_list("id", flat=True)
        for successor in waiting:
            Operation.objects.filter(id=successor).update(next_attempt_at=self.now)
            outbox.ring("op", successor)

    def _save(self) -> None:
        operation = self.operation
        operation.save(
            update_fields=[
                "step",
                "scratch",
                "steps",
                "error",
                "attempts",
                "next_attempt_at",
                "started_at",
                "finished_at",
            ]
        )

    # -- forward ------------------------------------------------------------------------------------------------------

    def _forward(self) -> bool:
        """Do the step in hand; return True when the turn can go on."""
        operation = self.operation
        if operation.step >= len(self.saga.steps):
            operation.finished_at = self.now
            self._save()
            move(operation, "succeeded")
            return False
        step = self.saga.steps[operation.step]
        if isinstance(step, LocalStep):
            if self._must_stop():
                return True
            self._mark(operation.step, "running")
            step.do(self.context)
            self._advance()
            return True
        if isinstance(step, TalkStep):
            return self._talk(step)
        if isinstance(step, PollStep):
            return self._forward_poll(step)
        return self._forward_host(step)

    def _talk(self, step: TalkStep) -> bool:
        """Give the newest reply to the step and do what it says. Return True when the turn can go on."""
        operation = self.operation
        call = self._call_in_hand("talk")
        reply = None
        if call is not None:
            reply = self._reply(call, step)
            if reply is None:
                operation.next_attempt_at = self.now + timedelta(seconds=5)
                return False
        self._mark(operation.step, "running")
        try:
            with transaction.atomic():
                said = step.say(self.context, reply)
        except StepFailed as error:
            self._fail({"code": error.code, "message": str(error), "detail": error.detail})
            return True
        except StepStuck as error:
            self._stick(str(error))
            return False
        if said is None:
            operation.scratch.pop("share", None)
            self._advance()
            return True
        if isinstance(said, Wait):
            operation.next_attempt_at = self.now + timedelta(seconds=said.seconds)
        else:
            self._send(said, "talk")
        return False

    def _reply(self, call: HostCall, step: TalkStep) -> Reply | None:
        """Return how the question ended, None while the host may still answer. What ended is settled."""
        if call.state == "answered":
            call.settled = True
            call.save(update_fields=["settled"])
            answer = call.answer or {}
            error = answer.get("error") or {}
            return Reply(
                answer.get("outcome", "unknown"),
                answer.get("result") or {},
                error.get("code", ""),
                error.get("message", ""),
            )
        lost = call.state == "taken" and call.lease_until is not None and call.lease_until < self.now
        untaken = call.state == "waiting" and self.now >= call.created_at + timedelta(seconds=step.patience_seconds)
        if not lost and not untaken:
            return None
        _supersede(call)
        return Reply("silent", code="host_silent", message="the host did not answer")

    def _stick(self, finding: str) -> None:
        """Park the operation at once: trying again cannot help."""
        operation = self.operation
        self._mark(operation.step, "failed")
        operation.error = {"code": "undecided", "message": _UNDECIDED, "detail": finding}
        operation.scratch[GOES_ON] = True
        self._save()
        move(operation, "stuck")

    def _forward_poll(self, step: PollStep) -> bool:
        operation = self.operation
        if self._must_stop():
            return True
        self._mark(operation.step, "running")
        try:
            with transaction.atomic():
                ended = step.poll(self.context)
        except StepFailed as error:
            self._fail({"code": error.code, "message": str(error)})
            return True
        if not ended:
            operation.next_attempt_at = self.now + timedelta(seconds=step.every_seconds)
            return False
        operation.scratch.pop("share", None)
        self._advance()
        return True

    def _forward_host(self, step: HostStep) -> bool:
        operation = self.operation
        call = self._call_in_hand("step")
        if call is None:
            if self._must_stop():
                return True
            order = step.call(self.context)
            self._mark(operation.step, "running")
            if order is None:
                self._advance()
                return True
            self._send(order, "step")
            return False
        if call.state != "answered":
            return self._wait_for(call, step)
        call.settled = True
        call.save(update_fields=["settled"])
        answer = call.answer or {}
        outcome = answer.get("outcome")
        if outcome == "done":
            if step.done is not None:
                step.done(self.context, answer.get("result") or {})
            self._advance()
            return True
        error = answer.get("error") or {"code": "host_error", "message": "The host gave no reason."}
        if outcome == "never" and error["code"] != "stale_token":
            self._fail(_for_tenant(error))
            return True
        return self._again(error, limit=RETRY_LIMIT if outcome == "retry" else UNKNOWN_LIMIT)

    def _wait_for(self, call: HostCall, step: HostStep) -> bool:
        """The call is still with its host: wait, unless it is lost, cancelled before it was taken, or out of time."""
        operation = self.operation
        if call.state == "waiting" and self._must_stop(call):
            return True
        if Host.objects.filter(id=call.host_id, observed_state="fenced").exists():
            # Proved off: nothing more comes of the call, and what is undone there becomes a debt.
            _supersede(call)
            self._fail({"code": "host_lost", "message": _SENTENCES["host_lost"]})
            return True
        if call.state == "taken" and call.lease_until and call.lease_until < self.now:
            # The node worker died with it, or lost its way to us. A higher token fences off whatever it still does.
            _supersede(call)
            return self._again(
                {"code": "host_silent", "message": "The host stopped reporting this call."}, limit=UNKNOWN_LIMIT
            )
        if self.now >= operation.deadline_at:
            _supersede(call)
            self._fail({"code": "deadline", "message": "The host did not finish in time."})
            return True
        operation.next_attempt_at = min(self.now + timedelta(seconds=10), max(operation.deadline_at, self.now))
        return False

    def _must_stop(self, call: HostCall | None = None) -> bool:
        """Begin to unwind when asked to cancel or out of time. True when it did."""
        operation = self.operation
        if operation.cancel_requested and self.saga.cancellable:
            reason = {"code": "cancelled", "message": "Cancelled on request."}
        elif self.now >= operation.deadline_at:
            reason = {"code": "deadline", "message": "The operation did not finish in time."}
        else:
            return False
        if call is not None:
            _supersede(call)
        self._fail(reason)
        return True

    def _again(self, error: dict[str, str], *, limit: int) -> bool:
        operation = self.operation
        operation.attempts += 1
        if operation.attempts > limit or self.now >= operation.deadline_at:
            self._fail(_for_tenant(error))
            return True
        # Full jitter keeps many operations from coming back to one host at the same moment.
        delay = min(30.0, 0.5 * 2 ** min(operation.attempts, 6)) * random.uniform(0.5, 1.0)  # noqa: S311  not a secret
        operation.next_attempt_at = self.now + timedelta(seconds=delay)
        return False

    def _advance(self) -> None:
        operation = self.operation
        self._mark(operation.step, "done")
        operation.step += 1
        operation.attempts = 0

    def _fail(self, error: dict[str, str]) -> None:
        operation = self.operation
        operation.error = error
        operation.attempts = 0
        if operation.step < len(self.saga.steps):
            self._mark(operation.step, "failed")
        operation.step = min(operation.step, len(self.saga.steps) - 1)
        self._save()
        move(operation, "unwinding")
        operation.scratch["undo_since"] = self.now.isoformat()

    # -- backward -----------------------------------------------------------------------------------------------------

    def _backward(self) -> bool:
        operation = self.operation
        if operation.step < 0:
            self.saga.finish_failed(self.context, operation.error or {"code": "failed", "message": ""})
            operation.finished_at = self.now
            operation.step = 0
            self._save()
            cancelled = (operation.error or {}).get("code") == "cancelled"
            move(operation, "cancelled" if cancelled else "failed")
            return False
        step = self.saga.steps[operation.step]
        begun = bool(operation.steps) and operation.steps[operation.step]["state"] != "pending"
        if not begun or step.undo is None:
            operation.step -= 1
            return True
        if isinstance(step, LocalStep):
            step.undo(self.context)
            self._mark(operation.step, "undone")
            operation.step -= 1
            return True
        return self._backward_host(step)

    def _backward_host(self, step: HostStep) -> bool:
        operation = self.operation
        call = self._call_in_hand("undo")
        if call is None:
            assert step.undo is not None
            order = step.undo(self.context)
            if order is None:
                self._undone()
                return True
            self._send(order, "undo")
            return False
        if call.state == "answered":
            call.settled = True
            call.save(update_fields=["settled"])
            answer = call.answer or {}
            if answer.get("outcome") == "done":
                self._undone()
                return True
            error = answer.get("error") or {}
            refused = answer.get("outcome") == "never" and error.get("code") != "stale_token"
            return self._undo_again(step, error.get("message") or "the host gave no reason", last=refused)
        lost = call.state == "taken" and call.lease_until is not None and call.lease_until < self.now
        patience = call.created_at + timedelta(seconds=UNDO_PATIENCE_SECONDS)
        if (call.state == "waiting" or lost) and (self.now >= patience or self._host_is_down(call.host_id)):
            # The host is not there. The operation ends now; the debt is paid before anything else when it returns, so
            # the room it gives back cannot be used on that host before the leftover is gone.
            _supersede(call)
            _owe(call)
            self._undone()
            return True
        if lost:
            _supersede(call)
            return self._undo_again(step, "the host stopped reporting this call", last=False)
        operation.next_attempt_at = self.now + timedelta(seconds=5)
        return False

    def _undo_again(self, step: HostStep, message: str, *, last: bool) -> bool:
        """Send the undo again after a pause; after too many tries, or a "never", the operation is stuck.

        A host that is there and cannot take something away is a case no rule covers: room and quota stay held, and an
        operator sees it. Without a limit it would unwind for ever, moving all the time, so that no audit noticed.
        """
        operation = self.operation
        operation.attempts += 1
        if last or operation.attempts > UNKNOWN_LIMIT:
            operation.error = {**(operation.error or {}), "detail": f"undo of {step.name}: {message}"}
            self._save()
            move(operation, "stuck")
            return False
        operation.next_attempt_at = self.now + timedelta(seconds=min(15, 2 ** min(operation.attempts, 4)))
        return False

    def _undone(self) -> None:
        self._mark(self.operation.step, "undone")
        self.operation.step -= 1
        self.operation.attempts = 0

    def _host_is_down(self, host_id: uuid.UUID) -> bool:
        return Host.objects.filter(id=host_id, observed_state__in=["down", "fenced"]).exists()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _call_in_hand(self, purpose: str) -> HostCall | None:
        """Return this step's newest call that still matters: open, or answered and not yet acted on."""
        return (
            HostCall.objects.filter(operation=self.operation, step=self.operation.step, purpose=purpose, settled=False)
            .exclude(state="superseded")
            .select_for_update()
            .order_by("-created_at")
            .first()
        )

    def _send(self, order: HostOrder, purpose: str) -> None:
        operation = self.operation
        outbox.write_call(
            host_id=order.host_id,
            method=order.method,
            target_type=operation.target_type,
            target_id=operation.target_id,
            arguments=order.arguments,
            deadline_seconds=order.deadline_seconds,
            purpose=purpose,
            operation=operation,
        )
        operation.next_attempt_at = self.now + timedelta(seconds=10)

    def _mark(self, index: int, state: str) -> None:
        if index >= len(self.operation.steps):
            return
        entry: dict[str, Any] = self.operation.steps[index]
        if entry["started_at"] is None:
            entry["started_at"] = self.now.isoformat()
        entry["state"] = state
        if state in ("done", "undone", "failed"):
            entry["finished_at"] = self.now.isoformat()


def _supersede(call: HostCall) -> None:
    move(call, "superseded", settled=True)


def _owe(call: HostCall) -> None:
    target_type = call.operation.target_type if call.operation else "instance"
    outbox.write_call(
        host_id=call.host_id,
        method=call.method,
        target_type=target_type,
        target_id=call.target_id,
        arguments=call.arguments,
        deadline_seconds=call.deadline_seconds,
        purpose="debt",
    )


_UNDECIDED = "What the hosts report fits no rule, so nothing is guessed. The operators can see it."
_SENTENCES = {
    "image_missing": "The image's file is missing in the pool's storage.",
    "image_corrupt": "The image's file does not match its checksum.",
    "disk_too_small": "The flavor's disk is smaller than the image.",
    "storage_full": "The pool's storage is full.",
    "definition_refused": "The hypervisor refused the instance's definition.",
    "cells_refused": "Its host no longer gives away the CPUs, pages or NUMA cells that were chosen for it.",
    "start_failed": "The hypervisor could not start the instance.",
    "disk_missing": "The instance's disk is missing.",
    "host_silent": "The host stopped answering.",
    "host_lost": "The host was lost.",
    "watchdog": "The host's hypervisor stopped answering.",
}


def _for_tenant(error: dict[str, str]) -> dict[str, str]:
    """Keep the code, swap the host's words (paths, host names) for a fixed sentence; operators find them in `detail`."""
    code = error.get("code", "host_error")
    sentence = _SENTENCES.get(code, "The host could not carry out this step.")
    return {"code": code, "message": sentence, "detail": error.get("message", "")}
