"""One command at a time may change a cloud, and one test run at a time use a checkout's throw-away stores."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from deploy.steps.place import Place
from deploy.steps.progress import SetupError


@contextmanager
def only_one(place: Place, name: str = "up", *, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock of this state directory, the one of `deploy/up` unless told. Raises SetupError when it is taken, and
    stays so for `patience` seconds.

    It goes with the process that holds it, however that ends; children do not inherit it.
    """
    place.state.mkdir(parents=True, exist_ok=True)
    with (place.state / f".{name}.lock").open("w") as lock:
        deadline = time.monotonic() + patience
        while not _taken(lock):
            if time.monotonic() >= deadline:
                raise SetupError("Another deploy command is at work on this cloud: wait for it.")
            time.sleep(0.2)
        os.set_inheritable(lock.fileno(), False)
        yield


def _taken(lock: IO[str]) -> bool:
    """Take the lock if it is free; return whether it was."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
