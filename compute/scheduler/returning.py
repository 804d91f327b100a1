"""Which hosts could be lost with all their guests sure to come back, in whatever order they look for room.

A bound, not a plan. Let `big` be the largest amount of each resource that a guest of the lost host asks for. A host has
as many slots as guests of that size fit on it. A guest takes at most `big`, so it costs its new host at most one slot and
all others none: where those hosts that suit a guest have at least as many slots together as there are guests, the last
one still finds one. It holds for any order and any choice among the hosts, so also for those that an evacuation makes.

Cheap enough for all hosts of a large pool at once. Whom it does not cover may come back all the same: that takes a plan.
Guests with hard groups, limits per failure domain or NUMA cells are not covered: for them room is not all that counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np

from compute.scheduler.capacity import room
from compute.scheduler.filters import FILTERS, failing_rows
from compute.scheduler.losses import Guest
from compute.scheduler.model import RESOURCES, Request, Resources
from compute.scheduler.snapshot import Counts, Flags, Shares, Snapshot

_CAPACITY: Final = sum(1 << bit for bit, item in enumerate(FILTERS) if item.resource is not None)
_ROWS_AT_ONCE: Final = 256  # lost hosts: with 10,000 others 20 MiB for each matrix
_HARD: Final = frozenset({"anti_affinity", "affinity"})


def sure_to_return(snapshot: Snapshot, guests: Iterable[Guest]) -> frozenset[str]:
    """Return the ids of the hosts whose guests would all come back were that host alone lost now.

    A host without guests is among them. Raises KeyError for a guest on a host that is not in the snapshot.
    """
    kinds: dict[Request, int] = {}
    kind_of: dict[Request, int] = {}
    asked: dict[int, list[Resources]] = defaultdict(list)
    kinds_on: dict[int, set[int]] = defaultdict(set)
    special: set[int] = set()
    for guest in guests:
        row, request = snapshot.row_of[guest.host_id], guest.request
        if request.numa is not None or (
            request.group is not None and (request.group_rule in _HARD or request.domain_limit is not None)
        ):
            special.add(row)
            continue
        kind = kind_of.get(request)
        if kind is None:
            lean = replace(request, resources=Resources(0, 0, 0), group=None, image=None)
            kind = kind_of[request] = kinds.setdefault(lean, len(kinds))
        asked[row].append(request.resources)
        kinds_on[row].add(kind)
    able = np.array([failing_rows(snapshot, lean) & ~_CAPACITY == 0 for lean in kinds], dtype=np.bool_)
    lost = sorted(asked.keys() - special)
    returning = set(range(len(snapshot))) - special - set(lost)
    for start in range(0, len(lost), _ROWS_AT_ONCE):
        rows = lost[start : start + _ROWS_AT_ONCE]
        slots = _slots(snapshot, rows, [_largest(asked[row]) for row in rows])
        found = _slots_by_kind(slots, able)
        returning.update(
            row
            for place, row in enumerate(rows)
            if all(found[place, kind] >= len(asked[row]) for kind in kinds_on[row])
        )
    return frozenset(snapshot.hosts[row].id for row in returning)


def _largest(asked: list[Resources]) -> Resources:
    return Resources(
        max(one.vcpus for one in asked), max(one.memory_mib for one in asked), max(one.disk_gib for one in asked)
    )


def _slots(snapshot: Snapshot, rows: list[int], big: list[Resources]) -> Counts:
    """Return for each lost row (down) how many of its largest guests fit on each host (across); none on itself."""
    slots: Counts = np.full((len(rows), len(snapshot)), np.iinfo(np.int32).max, dtype=np.int64)
    for resource in RESOURCES:
        size = np.array([getattr(one, resource) for one in big], dtype=np.int64)[:, None]
        free = np.maximum(room(snapshot.capacity[resource], snapshot.used[resource]), 0)[None, :]
        np.minimum(slots, np.where(size > 0, free // np.maximum(size, 1), slots), out=slots)
    slots[np.arange(len(rows)), rows] = 0
    return slots


def _slots_by_kind(slots: Counts, able: Flags) -> Shares:
    """Return for each lost row how many slots there are on the hosts that suit each kind of guest."""
    summed: Shares = slots.astype(np.float64) @ able.T.astype(np.float64)  # exact below 2^53, and much faster
    return summed
