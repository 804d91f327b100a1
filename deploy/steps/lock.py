"""One command at a time may change a cloud."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.steps.place import Place
from deploy.steps.progress import SetupError


@contextmanager
def only_one(place: Place) -> Iterator[None]:
    """Hold the cloud's lock, the one of `deploy/up`. Raises SetupError when another command holds it."""
    place.state.mkdir(parents=True, exist_ok=True)
    with (place.state / ".up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError("Another deploy command is at work on this cloud: wait for it.") from None
        os.set_inheritable(lock.fileno(), False)
        yield
