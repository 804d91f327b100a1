"""N+k for all guests: which hosts may take one more so that, whichever k hosts are lost, every guest still fits elsewhere.

For each set of k hosts a plan says where their guests would go: largest first, to the host that stays emptiest, and where
that fails to the fullest that fits. All sets are planned at once, in arrays of sets x hosts, from the state as it is: the
same state gives the same plans. A plan is a proof. The search is not complete, so a host may be refused that a cleverer
plan would allow; never the other way round.

A loss is an emergency: limits per failure domain are not kept in the plans; hard groups, pools, traits, modes and reach are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Final, NamedTuple

import numpy as np

from compute.scheduler.capacity import room
from compute.scheduler.filters import FILTERS, failing_rows
from compute.scheduler.model import RESOURCES, Request, Resource, Resources
from compute.scheduler.snapshot import Counts, Flags, Shares, Snapshot

# Sets of lost hosts x hosts: 24 MiB for each resource. N+1 at 1,700 hosts, N+2 at 180.
_MOST_CELLS: Final = 3_000_000
_CAPACITY: Final = sum(1 << bit for bit, item in enumerate(FILTERS) if item.resource is not None)


@dataclass(frozen=True, slots=True)
class Guest:
    """What is on a host and has to go elsewhere with it: its request as it would be made today."""

    id: str
    host_id: str
    request: Request


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Plans for all sets of `count` lost hosts. Row s of an array speaks of the s-th set, column i of `snapshot.hosts[i]`.

    `free` is the room left once the plan is carried out; `uncovered` the sets for which there is no plan.
    """

    snapshot: Snapshot
    guests: tuple[Guest, ...]
    count: int
    lost: Flags
    free: dict[Resource, Counts]
    covered: Flags
    moved: _Moved

    @classmethod
    def plan(cls, snapshot: Snapshot, guests: Iterable[Guest], count: int = 1) -> Losses:
        """Plan every loss. Raises ValueError for a count below 1, or for more sets than can be looked at (see _MOST_CELLS)."""
        hosts, guests = len(snapshot), tuple(guests)
        if count < 1 or math.comb(hosts, count) * hosts > _MOST_CELLS:
            raise ValueError(f"losses of {count} out of {hosts} hosts cannot be planned")
        if not np.array_equal(snapshot.id_order, np.arange(hosts)):
            # Ties go to the first column, which has to be the first id.
            snapshot = Snapshot.from_hosts(sorted(snapshot.hosts, key=lambda host: host.id))
        sets = list(combinations(range(hosts), count))
        lost: Flags = np.zeros((len(sets), hosts), dtype=np.bool_)
        for place, rows in enumerate(sets):
            lost[place, list(rows)] = True
        moving = _Moving.of(snapshot, guests, sets)
        free, went, covered = _moved(snapshot, moving, lost, emptiest=True)
        again = np.flatnonzero(~covered)
        if len(again):
            tighter, other, found = _moved(snapshot, moving.of_sets(again), lost[again], emptiest=False)
            went[again], covered[again] = other, found
            for resource in RESOURCES:
                free[resource][again] = tighter[resource]
        return cls(snapshot, guests, count, lost, free, covered, _Moved(moving, went))

    @property
    def uncovered(self) -> tuple[tuple[str, ...], ...]:
        """The sets of hosts, by id, whose loss some guest would not survive."""
        return tuple(
            tuple(sorted(self.snapshot.hosts[row].id for row in np.flatnonzero(self.lost[place])))
            for place in np.flatnonzero(~self.covered)
        )

    def exposed(self, request: Request) -> frozenset[str]:
        """Return the hosts with room that cannot take the request so that every loss stays covered.

        Where a loss is not covered now, that is all of them: one more guest only takes room away.
        """
        able = failing_rows(self.snapshot, request) == 0
        safe = able & self._safe(request) if self.covered.all() else np.zeros_like(able)
        return frozenset(self.snapshot.hosts[row].id for row in np.flatnonzero(able & ~safe))

    def _safe(self, request: Request) -> Flags:
        """Rows where the plans as they are leave room for the request, and room for it elsewhere once its host is lost."""
        takes: Flags = np.logical_not(self.lost)
        for resource in RESOURCES:
            amount: int = getattr(request.resources, resource)
            if amount > 0:
                takes &= self.free[resource] >= amount
        if request.group is not None and request.group_rule == "anti_affinity":
            sets, rows = self.moved.members_of(request.group)
            takes[sets, rows] = False
        stays: Flags = np.all(takes | self.lost, axis=0)
        stranded: Flags = ~np.any(takes & _elsewhere(self.snapshot, request), axis=1, keepdims=True)
        safe: Flags = stays & ~np.any(self.lost & stranded, axis=0)
        return safe


@dataclass(frozen=True, slots=True, eq=False)
class _Moving:
    """The guests of each set in the order in which they look for room; rows are padded with guests that ask for nothing.

    `able[kind[s, t]]` are the hosts that suit the t-th guest of set s by everything but room; `group` numbers the hard
    groups from 1, 0 is none.
    """

    asked: dict[Resource, Counts]
    kind: Counts
    group: Counts
    able: Flags
    groups: tuple[str, ...]

    @classmethod
    def of(cls, snapshot: Snapshot, guests: Sequence[Guest], sets: Sequence[tuple[int, ...]]) -> _Moving:
        moves, suits = _moves(snapshot, guests)
        of_row: dict[int, list[_Move]] = defaultdict(list)
        for move in sorted(moves, key=_Move.order):
            of_row[move.row].append(move)
        groups: dict[str, int] = {}
        group_of = np.zeros(len(suits) + 1, dtype=np.int64)
        for number, wanted in enumerate(suits, start=1):
            if wanted.group is not None and wanted.group_rule == "anti_affinity":
                group_of[number] = groups.setdefault(wanted.group, len(groups) + 1)
        queues = [_merged([of_row[row] for row in rows if row in of_row]) for rows in sets]
        steps = max(map(len, queues), default=0)
        table = [
            [(move.vcpus, move.memory_mib, move.disk_gib, move.kind) for move in queue]
            + [(0,) * (len(RESOURCES) + 1)] * (steps - len(queue))
            for queue in queues
        ]
        columns = np.array(table, dtype=np.int64).reshape(len(sets), steps, len(RESOURCES) + 1)
        asked = {resource: columns[:, :, place] for place, resource in enumerate(RESOURCES)}
        kind: Counts = columns[:, :, -1]
        able = [np.ones(len(snapshot), dtype=np.bool_), *(_elsewhere(snapshot, wanted) for wanted in suits)]
        return cls(asked, kind, group_of[kind], np.array(able), tuple(groups))

    def of_sets(self, places: Counts) -> _Moving:
        asked = {resource: column[places] for resource, column in self.asked.items()}
        return _Moving(asked, self.kind[places], self.group[places], self.able, self.groups)


@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    """To which row each guest in `moving` goes."""

    moving: _Moving
    went: Counts

    def members_of(self, group: str) -> tuple[Counts, Counts]:
        """The sets in which members of a hard group move, and the rows that they move to."""
        if group not in self.moving.groups:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        sets, steps = np.nonzero(self.moving.group == self.moving.groups.index(group) + 1)
        return sets, self.went[sets, steps]


class _Move(NamedTuple):
    """One guest, or the members of a group that must share a host, on their way. `kind` numbers what suits it, from 1."""

    row: int
    id: str
    size: float
    vcpus: int
    memory_mib: int
    disk_gib: int
    kind: int

    def order(self) -> tuple[float, str]:
        return -self.size, self.id


def _merged(queues: Sequence[list[_Move]]) -> list[_Move]:
    return queues[0] if len(queues) == 1 else sorted(chain.from_iterable(queues), key=_Move.order)


def _moves(snapshot: Snapshot, guests: Sequence[Guest]) -> tuple[list[_Move], tuple[Request, ...]]:
    """Turn guests into moves, and tell what suits each kind. Raises KeyError for a guest on a host not in the snapshot."""
    vcpus, memory_mib, disk_gib = (max(1, int(snapshot.capacity[resource].max(initial=1))) for resource in RESOURCES)
    moves: list[_Move] = []
    kinds: dict[Request, int] = {}
    kind_of: dict[Request, int] = {}

    def move(row: int, guest: Guest, total: Resources, kind: int) -> None:
        size = max(total.vcpus / vcpus, total.memory_mib / memory_mib, total.disk_gib / disk_gib)
        moves.append(_Move(row, guest.id, size, total.vcpus, total.memory_mib, total.disk_gib, kind))

    together: dict[str, dict[int, list[Guest]]] = defaultdict(lambda: defaultdict(list))
    for guest in guests:
        row, request = snapshot.row_of[guest.host_id], guest.request
        if request.group is not None and request.group_rule == "affinity":
            together[request.group][row].append(guest)
            continue
        kind = kind_of.get(request)  # hashing a request costs more than the rest of this loop: once for each guest
        if kind is None:
            kind = kind_of[request] = kinds.setdefault(_but_for_room(request), len(kinds) + 1)
        move(row, guest, request.resources, kind)
    for rows in together.values():
        for row, members in rows.items():
            total = Resources(0, 0, 0)
            for member in members:
                total = total + member.request.resources
            wanted = replace(_but_for_room(members[0].request), group_started=len(rows) > 1)
            first = min(members, key=lambda member: member.id)
            move(row, first, total, kinds.setdefault(wanted, len(kinds) + 1))
    return moves, tuple(kinds)


def _but_for_room(request: Request) -> Request:
    return replace(
        request,
        resources=Resources(0, 0, 0),
        target_host=None,
        exposed_hosts=frozenset(),
        domain_limit=None,
        domain_members={},
    )


def _elsewhere(snapshot: Snapshot, request: Request) -> Flags:
    """Rows that could take the request in a loss, whatever room they have."""
    able: Flags = failing_rows(snapshot, _but_for_room(request)) & ~_CAPACITY == 0
    return able


def _moved(
    snapshot: Snapshot, moving: _Moving, lost: Flags, *, emptiest: bool
) -> tuple[dict[Resource, Counts], Counts, Flags]:
    """Find a host for each guest of each set. Returns the room left, the row of each guest (-1: none), the sets all found."""
    sets, steps = moving.kind.shape
    free, scale = {}, {}
    for resource in RESOURCES:
        left = room(snapshot.capacity[resource], snapshot.used[resource])
        free[resource] = np.repeat(left[None, :], sets, axis=0)
        scale[resource] = 1.0 / np.maximum(snapshot.capacity[resource], 1)
    went = np.full((sets, steps), -1, dtype=np.int64)
    covered = np.ones(sets, dtype=np.bool_)
    every = np.arange(sets)
    for step in range(steps):
        able = moving.able[moving.kind[:, step]] & ~lost
        points: Shares = np.full(lost.shape, np.inf) if emptiest else np.zeros(lost.shape)
        for resource in RESOURCES:
            amount = moving.asked[resource][:, step, None]
            left = free[resource] - amount
            able &= (left >= 0) | (amount <= 0)
            share = left * scale[resource]
            points = np.minimum(points, share) if emptiest else points - share
        apart = moving.group[:, step]
        if apart.any():
            met, before = np.nonzero((moving.group[:, :step] == apart[:, None]) & (apart[:, None] > 0))
            able[met, went[met, before]] = False
        best = np.where(able, points, -np.inf).argmax(axis=1)
        found = able[every, best]
        covered &= found | (moving.kind[:, step] == 0)
        went[:, step] = np.where(found, best, -1)
        for resource in RESOURCES:
            free[resource][every, best] -= np.where(found, moving.asked[resource][:, step], 0)
    return free, went, covered
