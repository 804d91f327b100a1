"""What a saga is made of. No step does I/O: a local step writes rows, a host step says what a host is to do."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from compute.models import Operation


@dataclass(frozen=True, slots=True)
class HostOrder:
    """One order for one host, not yet a row. `arguments` is JSON made of compute.wire types."""

    host_id: uuid.UUID
    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    deadline_seconds: float = 60.0


@dataclass(slots=True)
class Context:
    """What a step sees: its operation (row locked), and the scratch pad that is saved with each turn."""

    operation: Operation
    out_of_time: bool = False  # past the operation's deadline, as this turn began

    @property
    def cancel_requested(self) -> bool:
        return bool(self.operation.cancel_requested)

    @property
    def target_id(self) -> uuid.UUID:
        return self.operation.target_id

    @property
    def input(self) -> dict[str, Any]:
        data: dict[str, Any] = self.operation.input
        return data

    @property
    def scratch(self) -> dict[str, Any]:
        data: dict[str, Any] = self.operation.scratch
        return data

    def note(self, text: str) -> None:
        """Say in the step in hand how far it is, for tenants to read."""
        self.operation.steps[self.operation.step]["note"] = text


@dataclass(frozen=True, slots=True)
class LocalStep:
    """Writes rows in the turn's own transaction. Done twice (after a crash before commit) it starts from the same rows."""

    name: str
    do: Callable[[Context], None]
    undo: Callable[[Context], None] | None = None


@dataclass(frozen=True, slots=True)
class HostStep:
    """Has a host do something. `call` returning None means that there is nothing to do (no host, nothing made yet).

    `done` records the host's result, in the transaction that also advances the operation. `undo` says what the host must
    do to take it back; it must hold for a step that was never begun, half done, or done.
    """

    name: str
    call: Callable[[Context], HostOrder | None]
    done: Callable[[Context, dict[str, Any]], None] | None = None
    undo: Callable[[Context], HostOrder | None] | None = None


class StepFailed(Exception):
    """A step came to an end that fails the operation: it unwinds, with this code and sentence. `detail` is for operators."""

    def __init__(self, code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail


class StepStuck(Exception):
    """What a talk found fits no rule: nothing is guessed, an operator has to look. The message says what was found."""


@dataclass(frozen=True, slots=True)
class Reply:
    """How a talk's newest question ended. `outcome` "silent": the host did not take it, or stopped reporting it."""

    outcome: Literal["done", "retry", "never", "unknown", "silent"]
    result: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask nothing for so long; what is said next answers None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class TalkStep:
    """Asks hosts one question after another until it knows what to do: for what no single answer decides.

    `say` gets the newest reply (None at the beginning and after a wait) and returns the next order, a wait, or None at the
    end of the step. Every end of an order comes to it, also refusal and silence; it alone decides on cancel and deadline
    (`context.cancel_requested`, `context.out_of_time`), of which the engine does nothing by itself here. It writes rows in
    the turn's own transaction. It may keep `context.scratch["share"]`, 0 to 1 of this step, for people. Raises StepFailed to
    unwind, StepStuck to be looked at.
    `patience_seconds`: how long a question may lie untaken before it counts as silence.
    """

    name: str
    say: Callable[[Context, Reply | None], HostOrder | Wait | None]
    patience_seconds: float = 30.0
    undo: None = None


@dataclass(frozen=True, slots=True)
class PollStep:
    """Looks how far other operations have come, orders more, and is asked again until it says that all is done.

    `poll` returns True at the end; it may write `context.scratch["share"]` (0 to 1, of this step) and a note for
    people. Between two polls a cancel or the deadline ends it. Raises StepFailed. No undo: what was ordered goes on.
    """

    name: str
    poll: Callable[[Context], bool]
    every_seconds: float = 2.0
    undo: None = None


@dataclass(frozen=True, slots=True)
class Saga:
    """A kind of operation. `cancellable`: an open one may be unwound on request.

    `finish_failed` runs in the transaction that ends the unwinding: it gives back what the service took. It is the last
    thing that happens, so room and quota are free only once nothing is left on the host (or a debt row says so).
    """

    kind: str
    target_type: str
    steps: tuple[LocalStep | HostStep | PollStep | TalkStep, ...]
    finish_failed: Callable[[Context, dict[str, str]], None]
    cancellable: bool = False
