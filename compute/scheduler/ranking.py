"""`rank`: every host becomes a candidate with a score or a refusal with a name. Ties are broken by host id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np

from compute.scheduler import reasons
from compute.scheduler.filters import failing, failing_rows, refusal
from compute.scheduler.model import Candidate, HostState, Policy, Ranking, Refusal, Request
from compute.scheduler.snapshot import Counts, Shares, Snapshot
from compute.scheduler.weighers import active

Item = TypeVar("Item")

# Measured: from here on building columns and ranking them costs less than going host by host.
_COLUMNS_FROM = 16
# A record keeps the best 20, a claim walks down the best 16.
_FIRST = 32


def rank(hosts: Sequence[HostState] | Snapshot, request: Request, policy: Policy) -> Ranking:
    """Return all hosts ranked. The order of `hosts` never matters. Raises ValueError when two hosts share an id.

    Keep a `Snapshot` where many requests meet the same hosts: then one ranking costs array operations only.
    """
    if isinstance(hosts, Snapshot):
        return rank_columns(hosts, request, policy)
    if len(hosts) >= _COLUMNS_FROM:
        return rank_columns(Snapshot.from_hosts(hosts), request, policy)
    return rank_hosts(hosts, request, policy)


def rank_hosts(hosts: Sequence[HostState], request: Request, policy: Policy) -> Ranking:
    """Rank host by host: the plain statement of what `rank_columns` does with arrays."""
    ordered = sorted(hosts, key=lambda host: host.id)
    if len({host.id for host in ordered}) != len(ordered):
        raise ValueError("two hosts of one ranking have the same id")
    weighers = active(policy)
    candidates, refusals = [], []
    for host in ordered:
        bits = failing(host, request)
        if bits:
            refusals.append(refusal(host, request, bits))
            continue
        contributions = {weigher.name: weight * weigher.weigh(host, request) for weigher, weight in weighers}
        candidates.append(Candidate(host.id, _total(contributions.values()), contributions, host.name))
    candidates.sort(key=lambda candidate: -candidate.score)  # stable: equal scores stay in id order
    told = reasons.of_refusals(refusals)
    return Ranking(tuple(candidates), tuple(refusals), reasons.tally(told), told, source=ordered)


def rank_columns(snapshot: Snapshot, request: Request, policy: Policy) -> Ranking:
    """Rank all rows of a snapshot at once. Equal to `rank_hosts` on the same hosts, float for float."""
    bits = failing_rows(snapshot, request)
    rows: Counts = np.flatnonzero(bits == 0)
    names, columns = [], []
    scores = np.zeros(len(rows), dtype=np.float64)
    for weigher, weight in active(policy):
        points = weight * weigher.weigh_rows(snapshot, request, rows)
        scores = scores + points
        names.append(weigher.name)
        columns.append(points)
    order = _Order(scores, snapshot.id_order[rows])
    refused: Counts = np.flatnonzero(bits)
    refused = refused[np.argsort(snapshot.id_order[refused])]
    hosts = snapshot.hosts

    def candidate(place: int) -> Candidate:
        at = order.at(place)
        host = hosts[rows[at]]
        contributions = {name: float(points[at]) for name, points in zip(names, columns, strict=True)}
        return Candidate(host.id, float(scores[at]), contributions, host.name)

    def refusal_at(place: int) -> Refusal:
        row = refused[place]
        return refusal(hosts[row], request, int(bits[row]))

    told = reasons.of_columns(snapshot, request, bits)
    candidates, refusals = _Lazy(len(rows), candidate), _Lazy(len(refused), refusal_at)
    return Ranking(
        candidates,
        refusals,
        reasons.tally(told),
        told,
        source=snapshot,
        failing=bits,  # type: ignore[arg-type]  # an array is a sequence
    )


def _total(values: Iterable[float]) -> float:
    total = 0.0
    for value in values:  # not sum(): newer Pythons compensate its rounding, the columns do not
        total += value
    return total


class _Order:
    """Which score stands at which place: the highest first, of equal ones the first by `ids`.

    A placement and its record look at a few of thousands: these are picked out; all are sorted once somebody looks further.
    """

    __slots__ = ("_ids", "_order", "_scores")

    def __init__(self, scores: Shares, ids: Counts) -> None:
        self._scores = scores
        self._ids = ids
        self._order = self._sorted(np.arange(len(scores)) if len(scores) <= _FIRST else self._first())

    def at(self, place: int) -> int:
        if place >= len(self._order):
            self._order = self._sorted(np.arange(len(self._scores)))
        return int(self._order[place])

    def _first(self) -> Counts:
        """At least `_FIRST` of them: with all that are as good as the last."""
        edge = np.partition(self._scores, -_FIRST)[-_FIRST]
        return np.flatnonzero(self._scores >= edge)

    def _sorted(self, which: Counts) -> Counts:
        return which[np.lexsort((self._ids[which], -self._scores[which]))]


class _Lazy(Sequence[Item], Generic[Item]):
    """A sequence whose items are made when they are first looked at: a placement reads a few of thousands, some twice."""

    __slots__ = ("_length", "_made", "_make")

    def __init__(self, length: int, make: Callable[[int], Item]) -> None:
        self._length = length
        self._make = make
        self._made: dict[int, Item] = {}

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, place: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(place, slice):
            return tuple(self._item(index) for index in range(*place.indices(self._length)))
        index = place + self._length if place < 0 else place
        if not 0 <= index < self._length:
            raise IndexError(place)
        return self._item(index)

    def _item(self, index: int) -> Item:
        item = self._made.get(index)
        if item is None:
            item = self._made[index] = self._make(index)
        return item

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, _Lazy | tuple):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
