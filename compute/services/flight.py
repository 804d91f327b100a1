"""The flight recorder: keeps the hosts as decisions saw them, so that each can be ranked again, offline. See ADR 11.

Each process writes chains of frames, one chain a pool: first all hosts, then what differs. A frame is written in the
transaction of its decision; the next one builds on it once that has been committed.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction

from compute.models import Decision, FlightFrame, Pool
from compute.scheduler.flight import FLIGHT_VERSION, frame_between
from compute.scheduler.model import HostState, Ranking
from compute.scheduler.snapshot import Snapshot
from tenants.models.ids import new_id
from tenants.services import audit
from tenants.services.access import Actor, authorize

_CHAIN_LENGTH: Final = 200
"""Frames of one chain: what one lost frame can make unreadable, at most."""

# The newest frames that fit stay, whichever chains they belong to; what then lacks its parent is told as missing.
_EXPIRE: Final = """
DELETE FROM compute_flightframe WHERE id IN (
    SELECT id FROM (SELECT id, sum(size) OVER (ORDER BY created_at DESC, id DESC) AS total FROM compute_flightframe) AS kept
    WHERE total > %s
)
"""


@dataclass(frozen=True, slots=True)
class _Link:
    """The end of a chain that has been committed."""

    frame: uuid.UUID
    length: int
    hosts: dict[str, HostState]


_ends: dict[uuid.UUID, _Link] = {}
_ends_lock = threading.Lock()


def set_recording(*, actor: Actor, pool: Pool, on: bool) -> None:
    """Switch the recorder of a pool on or off; the next decision heeds it. Raises PermissionDenied."""
    authorize(actor, "pool.update", None)
    with transaction.atomic():
        Pool.objects.filter(id=pool.id).update(recording=on)
        audit.record(actor=actor, action="pool.record", target=pool, after={"recording": on})


def record_frame(*, pool_id: uuid.UUID, ranking: Ranking) -> uuid.UUID:
    """Keep the hosts of a ranking, in the caller's transaction; return the frame's id."""
    hosts = ranking.source.hosts if isinstance(ranking.source, Snapshot) else ranking.source
    now = {host.id: host for host in hosts}
    with _ends_lock:
        end = _ends.get(pool_id)
    frame = frame_between(end.hosts if end else None, now)
    if end is not None and (end.length >= _CHAIN_LENGTH or len(frame["hosts"]) + len(frame["gone"]) > len(now) // 2):
        end, frame = None, frame_between(None, now)
    data = zlib.compress(json.dumps(frame, separators=(",", ":")).encode(), 1)
    link = _Link(new_id(), end.length + 1 if end else 1, now)
    FlightFrame.objects.create(
        id=link.frame, parent=end.frame if end else None, pool_id=pool_id, data=data, size=len(data)
    )
    transaction.on_commit(lambda: _extend(pool_id, link))
    return link.frame


def expire_frames() -> int:
    """Delete the oldest frames beyond the recorder's size; return how many."""
    with connection.cursor() as cursor:
        cursor.execute(_EXPIRE, [settings.FLIGHT_RECORDER_MIB * 2**20])
        return int(cursor.rowcount)


def flight_lines(
    *, pool: Pool, since: datetime | None = None, until: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a recorded period of a pool as the lines of a flight file: see `compute.scheduler.flight`."""
    rows = Decision.unscoped.filter(request__pool_id=str(pool.id)).exclude(frame=None)
    if since is not None:
        rows = rows.filter(created_at__gte=since)
    if until is not None:
        rows = rows.filter(created_at__lt=until)
    yield {"kind": "flight", "version": FLIGHT_VERSION}
    told: set[uuid.UUID] = set()
    for decision in rows.order_by("created_at", "id").iterator(chunk_size=500):
        yield from _frame_lines(decision.frame, told)
        yield _decision_line(decision)


def _extend(pool_id: uuid.UUID, link: _Link) -> None:
    with _ends_lock:
        _ends[pool_id] = link


def _frame_lines(frame: uuid.UUID | None, told: set[uuid.UUID]) -> Iterator[dict[str, Any]]:
    """Yield the frames that lead to this one, the eldest first, without those told already."""
    chain = []
    while frame is not None and frame not in told:
        row = FlightFrame.objects.filter(id=frame).first()
        if row is None:
            break
        chain.append(row)
        frame = row.parent
    for row in reversed(chain):
        told.add(row.id)
        data = json.loads(zlib.decompress(bytes(row.data)))
        yield {"kind": "frame", "id": str(row.id), "parent": str(row.parent) if row.parent else None, **data}


def _decision_line(decision: Decision) -> dict[str, Any]:
    request = {key: value for key, value in decision.request.items() if key not in ("name", "count")}
    return {
        "kind": "decision",
        "id": str(decision.id),
        "at": decision.created_at.isoformat(),
        "outcome": decision.outcome,
        "name": decision.request["name"],
        "count": decision.request["count"],
        "frame": str(decision.frame),
        "request": request,
        "policy": decision.policy,
        "weights": decision.weights,
        "record": base64.b64encode(bytes(decision.record)).decode(),
        "passed_over": decision.passed_over,
        "host": str(decision.host_id) if decision.host_id else None,
        "plan": [host for _, host in decision.plan],
    }
