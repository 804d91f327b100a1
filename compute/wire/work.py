"""Orders to a host, and how they ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from compute.wire.message import WIRE_VERSION, Message

Outcome = Literal["done", "retry", "never", "unknown"]


@dataclass(frozen=True, slots=True)
class Call(Message):
    """One order to one host. `token` is the fencing token of `target_id`; a host refuses any that is below its newest."""

    id: str
    method: str
    target_id: str
    token: int
    arguments: dict[str, Any]
    deadline_seconds: float
    version: int = WIRE_VERSION


@dataclass(frozen=True, slots=True)
class CallError(Message):
    """Why a call failed. `code` is stable; `message` is for operators and may name paths; tenants see the code's sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CallAnswer(Message):
    """The end of a call. `unknown` says that the host cannot tell: the caller observes again, never assumes failure."""

    call_id: str
    token: int
    outcome: Outcome
    result: dict[str, Any] = field(default_factory=dict)
    error: CallError | None = None
    seconds: float = 0.0
    version: int = WIRE_VERSION
