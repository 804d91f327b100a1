"""A hook of the operators': a program that switches a host off, looks, and says so."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass

from compute.fencing.base import EVIDENCE_CHARACTERS, FenceFailed, Target

_PLACES = ("host", "id", "address")


@dataclass(frozen=True, slots=True)
class CommandFence:
    """Runs `argv` without a shell; {host}, {id} and {address} in a word stand for the target's.

    The proof is exit code 0 together with a last line that begins with "off": a program that says nothing proves nothing.
    """

    argv: tuple[str, ...]
    seconds: float = 60.0

    def power_off(self, target: Target) -> str:
        """See FenceDriver.power_off. The program and all it started is killed at the deadline."""
        words = [self._filled(word, target) for word in self.argv]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},  # no secret of the cloud
                start_new_session=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise FenceFailed(f"{words[0]} cannot be run: {error.strerror}") from None
        try:
            said, complaint = process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            raise FenceFailed(f"{words[0]} did not end within {self.seconds:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        last = said.strip().rpartition("\n")[2].strip()
        if process.returncode:
            reason = complaint.strip().rpartition("\n")[2] or last or "without a word"
            raise FenceFailed(f"{words[0]} ended with {process.returncode}: {reason[:300]}")
        if last.split(maxsplit=1)[:1] not in (["off"], ["off:"]):
            raise FenceFailed(f"{words[0]} ended well, but its last line does not begin with off: {last[:300]!r}")
        return last[:EVIDENCE_CHARACTERS]

    def _filled(self, word: str, target: Target) -> str:
        for place, value in zip(_PLACES, (target.name, target.id, target.address), strict=True):
            word = word.replace("{" + place + "}", value)
        return word
