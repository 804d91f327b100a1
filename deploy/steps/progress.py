"""What the person in front of it sees: numbered steps with their seconds, on standard error."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SetupError(Exception):
    """Something is missing or failed. The message says what, and what would help."""


class Progress:
    """Prints `[ 3/12] PostgreSQL ... 1.2 s`."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._number += 1
        began = time.monotonic()
        print(f"[{self._number:2}/{self._total}] {title}", end="", file=sys.stderr, flush=True)
        try:
            yield
        except BaseException:
            print("  failed", file=sys.stderr, flush=True)
            raise
        print(f"  {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def run(
    *command: str | Path, timeout: float = 120.0, env: dict[str, str] | None = None, stdin: str | None = None
) -> str:
    """Run a command and return what it prints. Raises SetupError with its last words."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env,
            input=stdin,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{command[0]} did not end in {timeout:.0f} s") from None
    except FileNotFoundError:
        raise SetupError(f"{command[0]} is not installed") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise SetupError(f"{' '.join(str(part) for part in command[:4])} ended with {done.returncode}: {said}")
    return done.stdout
