"""What a saga is made of. No step does I/O: a local step writes rows, a host step says what a host is to do."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
    """A poll step cannot come to its end: the operation fails with this code and sentence, and unwinds."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


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
    steps: tuple[LocalStep | HostStep | PollStep, ...]
    finish_failed: Callable[[Context, dict[str, str]], None]
    cancellable: bool = False
