"""The contract of a fence driver: power off, then look. What it returns is a proof; everything else is `FenceFailed`.

A time-out, a command that ended well without a word, or a machine that merely does not answer proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

EVIDENCE_CHARACTERS = 500


class FenceFailed(Exception):
    """Nothing is proved. The message is for operators and holds no secret."""


@dataclass(frozen=True, slots=True)
class Target:
    """The host to be switched off."""

    id: str
    name: str
    address: str


class FenceDriver(Protocol):
    """One way to switch hosts off. Safe to be used again on a host that is off already."""

    def power_off(self, target: Target) -> str:
        """Switch the host off, look until it is seen to be off, and return what was seen, in one sentence.

        Ends within the deadline it was configured with. Raises FenceFailed.
        """
        ...
