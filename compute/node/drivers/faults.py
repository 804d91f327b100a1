"""Faults as data for the fake driver: what goes wrong, where, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compute.wire import Message

FaultKind = Literal[
    "retry",  # RetryLater before anything is done
    "never",  # Never before anything is done
    "unknown",  # Unknown before anything is done
    "unknown_after",  # all is done, then the answer is lost: Unknown
    "hang",  # waits `seconds` (or until released), then goes on as if nothing was
    "crash",  # the process dies before anything is done
    "crash_after",  # the process dies when all is done, before it can say so
    "no_effect",  # the step does nothing and says nothing (a guest that ignores its power button)
]


class SimulatedCrash(BaseException):
    """The node worker's process died here. Not an Exception: no `except Exception` may survive a death."""


@dataclass(frozen=True, slots=True)
class Fault(Message):
    """One thing that goes wrong.

    `at` is a driver method ("start") or one of its steps ("start.define"; the fake's STEPS lists them all).
    `instance_id` "" means any. The fault strikes `times` times (-1: always) after it let `skip` calls pass.
    `seconds` is how long a "hang" lasts.
    """

    at: str
    kind: FaultKind
    times: int = 1
    skip: int = 0
    instance_id: str = ""
    code: str = "fault"
    message: str = "a fault that was asked for"
    seconds: float = 3600.0

    def matches(self, at: str, instance_id: str) -> bool:
        """Return whether this fault may strike at this place for this instance."""
        return self.at == at and self.times != 0 and self.instance_id in ("", instance_id)
