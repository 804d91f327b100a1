"""Long polls: a row is looked at, with short sleeps, until it has changed or the time is up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

# A waiting request holds a thread of its web worker; with this many at it, the next is answered at once.
WAITERS: Final = threading.BoundedSemaphore(12)
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.25


def wait_until(done: Callable[[], bool], *, seconds: float) -> None:
    """Return when `done()` holds, when `seconds` are over, or at once where too many are waiting already."""
    if seconds <= 0 or not WAITERS.acquire(blocking=False):
        return
    try:
        until, pause = time.monotonic() + seconds, _FIRST_PAUSE
        while not done() and (left := until - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 1.3, _LONGEST_PAUSE)
    finally:
        WAITERS.release()
