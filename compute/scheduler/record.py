"""A ranking packed into few bytes, to be stored with every placement: who failed what, and the best with their numbers.

Kept is what cannot be worked out without the hosts as they were: for each host the filters that it failed, for the best
candidates their room and each weigher's points, for the closest of the refused their room. Hosts are told by their
place in the roster, the sorted ids of the hosts looked at; `roster_digest` names it. All other numbers follow from the
request: margin = free - asked; score = the points added up in the order of the weighers.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from compute.scheduler.capacity import room
from compute.scheduler.filters import FILTERS, failing
from compute.scheduler.model import RESOURCES, Candidate, Ranking, Request, Resource
from compute.scheduler.snapshot import Counts, Shares, Snapshot
from compute.scheduler.topology import MEASURES, Measure
from compute.scheduler.topology import room as cells_room

RECORD_VERSION: Final = 1
KEPT: Final = 20

_LEVEL: Final = 1  # of zlib: most hosts fail the same, which any level finds
_DIGEST_BYTES: Final = 12
_LEAST: Final = -(2**62)  # no room is less
_RESOURCE_OF: Final[Mapping[str, Resource]] = {item.name: item.resource for item in FILTERS if item.resource}


class RecordError(ValueError):
    """Bytes that are no record, or one written by a newer release."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """One host of a record. `place` in the roster; `free`: resource, or measure of its NUMA cells, -> what was left
    before the request.

    `points`: weigher -> weight x value, in the order in which they are added up; empty for a refused host.
    """

    place: int
    free: Mapping[str, int]
    points: Mapping[str, float]

    @property
    def score(self) -> float:
        total = 0.0
        for value in self.points.values():  # as the ranking adds them up, float for float
            total += value
        return total


@dataclass(frozen=True, slots=True)
class Record:
    """A ranking as far as it is kept. `failing[i]`: the filters, in their order, that the roster's host i failed.

    `best`: candidates, best first; `closest`: refused hosts, those that lack least first; each `KEPT` at most.
    """

    failing: tuple[tuple[str, ...], ...]
    best: tuple[Numbers, ...]
    closest: tuple[Numbers, ...]


def roster(ranking: Ranking) -> tuple[str, ...]:
    """Return the ids of the hosts looked at, sorted: what the places of a record stand for."""
    if isinstance(ranking.source, Snapshot):
        return ranking.source.ids
    return tuple(sorted(host.id for host in ranking.source))


@lru_cache(maxsize=64)
def roster_digest(ids: tuple[str, ...]) -> str:
    """Return the name of a roster: 24 hexadecimal digits over the ids in order."""
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def pack(ranking: Ranking, request: Request) -> bytes:
    """Return the record of the request's ranking.

    The same ranking gives the same bytes, in whatever order the hosts came.
    """
    if isinstance(ranking.source, Snapshot):
        snapshot, bits = ranking.source, np.asarray(ranking.failing, dtype=np.int64)
    else:
        snapshot = Snapshot.from_hosts(ranking.source)
        bits = np.array([failing(host, request) for host in snapshot.hosts], dtype=np.int64)
    ordered = np.zeros(len(snapshot), dtype=np.int64)
    ordered[snapshot.id_order] = bits
    used = int(np.bitwise_or.reduce(ordered)) if len(ordered) else 0
    best = ranking.candidates[:KEPT]
    rows = [snapshot.row_of[candidate.host_id] for candidate in best]
    near = _closest(snapshot, request, bits)
    weighers = list(best[0].contributions) if best else []
    measures = [] if request.numa is None else list(MEASURES)
    head = {
        "hosts": len(snapshot),
        "filters": {item.name: bit for bit, item in enumerate(FILTERS) if used >> bit & 1},
        "weighers": weighers,
        "best": len(rows),
        "closest": len(near),
        "measures": measures,
    }
    points = np.array([_points(candidate, weighers) for candidate in best], dtype="<f8")
    parts = [
        json.dumps(head, separators=(",", ":")).encode() + b"\n",
        ordered.astype("<u4").tobytes(),
        snapshot.id_order[rows + near].astype("<u4").tobytes(),
        *(_room(snapshot, resource)[rows + near].astype("<i8").tobytes() for resource in RESOURCES),
        points.tobytes(),
        *(_cell_room(snapshot, request, measure, rows + near) for measure in measures),
    ]
    return bytes([RECORD_VERSION]) + zlib.compress(b"".join(parts), _LEVEL)


def unpack(data: bytes) -> Record:
    """Read what `pack` wrote. Raises RecordError."""
    if not data or data[0] != RECORD_VERSION:
        raise RecordError(f"record version {data[0] if data else 'none'}; this release reads {RECORD_VERSION}")
    try:
        line, rest = zlib.decompress(data[1:]).split(b"\n", 1)
        head = json.loads(line)
        reader = _Reader(rest)
        bits = reader.take("<u4", head["hosts"])
        count = head["best"] + head["closest"]
        places = reader.take("<u4", count)
        free = {resource: reader.take("<i8", count) for resource in RESOURCES}
        weighers = head["weighers"]
        points: Shares = reader.take("<f8", head["best"] * len(weighers)).reshape(head["best"], len(weighers))
        measured = {measure: reader.take("<i8", count) for measure in head.get("measures", ())}
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise RecordError(f"not a record: {error!r}") from None
    names = {
        int(value): tuple(name for name, bit in head["filters"].items() if int(value) >> bit & 1)
        for value in np.unique(bits)
    }
    numbers = [
        Numbers(
            place=int(places[index]),
            free={name: int(column[index]) for name, column in (free | measured).items() if column[index] >= _LEAST},
            points=dict(zip(weighers, points[index].tolist(), strict=True)) if index < head["best"] else {},
        )
        for index in range(count)
    ]
    return Record(
        failing=tuple(names[int(value)] for value in bits),
        best=tuple(numbers[: head["best"]]),
        closest=tuple(numbers[head["best"] :]),
    )


def resource_of(filter_name: str) -> Resource | None:
    """Return the resource that a capacity filter judges, None for all other filters."""
    return _RESOURCE_OF.get(filter_name)


def _room(snapshot: Snapshot, resource: Resource) -> Counts:
    return room(snapshot.capacity[resource], snapshot.used[resource])


def _cell_room(snapshot: Snapshot, request: Request, measure: Measure, rows: list[int]) -> bytes:
    """What the best cells of these hosts have of the measure; below `_LEAST` where the request asks for nothing of it."""
    assert request.numa is not None
    found = [cells_room(snapshot.hosts[row].cells, request.numa, measure) for row in rows]
    return np.array([_LEAST - 1 if each is None else each.free for each in found], dtype="<i8").tobytes()


def _points(candidate: Candidate, weighers: Sequence[str]) -> list[float]:
    return [candidate.contributions[name] for name in weighers]


def _closest(snapshot: Snapshot, request: Request, bits: Counts) -> list[int]:
    """Return the rows of the refused hosts that lack least: fewest filters, then the smallest part missing, then by id."""
    rows: Counts = np.flatnonzero(bits)
    if not len(rows):
        return []
    counts: Counts = np.zeros(len(rows), dtype=np.int64)
    for bit in range(len(FILTERS)):
        counts += bits[rows] >> bit & 1
    missing = np.zeros(len(rows), dtype=np.float64)
    for resource in RESOURCES:
        asked: int = getattr(request.resources, resource)
        if asked > 0:
            missing += np.maximum(0, asked - _room(snapshot, resource)[rows]) / asked
    order = np.lexsort((snapshot.id_order[rows], missing, counts))[:KEPT]
    return [int(row) for row in rows[order]]


class _Reader:
    """Reads arrays one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, kind: str, count: int) -> Any:
        found: Any = np.frombuffer(self._data, dtype=kind, count=count, offset=self._at)
        self._at += found.nbytes
        return found
