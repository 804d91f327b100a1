"""A ceiling on how fast one token may ask, so that a script gone wild does not starve the others.

Counted in each web process on its own: a matter of fairness, not of security, and it must not cost a round trip.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from cloud.api.authentication import actor_of

RATE: Final = 300.0  # requests per second
BURST: Final = 1500.0
_KEPT: Final = 10_000

_lock = threading.Lock()
_buckets: dict[str, tuple[float, float]] = {}  # token -> (room left, when that was so)


class FairThrottle(BaseThrottle):
    """A bucket for each token that holds BURST requests and refills at RATE."""

    left = BURST

    def allow_request(self, request: Request, view: APIView) -> bool:
        if request.auth is None:
            return True
        key, now = str(actor_of(request).token_id), time.monotonic()
        with _lock:
            room, then = _buckets.get(key, (BURST, now))
            room = min(BURST, room + (now - then) * RATE)
            allowed = room >= 1
            _buckets[key] = (room - 1 if allowed else room, now)
            if len(_buckets) > _KEPT:
                # Full buckets say nothing; those that are left belong to whoever asks right now.
                for old in [name for name, (_, seen) in _buckets.items() if now - seen > BURST / RATE]:
                    del _buckets[old]
        self.left = room
        return allowed

    def wait(self) -> float:
        return max(0.0, (1 - self.left) / RATE)
