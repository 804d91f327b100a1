"""Room for what fits nowhere: the cheapest guests whose moves let it in, each straight to a host that has room for it.

What a move costs is the memory that it copies. Chains, where a guest moves so that another can move so that the request
fits, are not looked for: a set of moves away from one host is what an operator can judge and carry out in any order.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from compute.scheduler.capacity import room
from compute.scheduler.filters import FILTERS, failing_rows
from compute.scheduler.losses import Guest
from compute.scheduler.model import RESOURCES, Policy, Request
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Counts, Flags, Snapshot

_ROOM: Final = sum(1 << bit for bit, item in enumerate(FILTERS) if item.resource is not None)
# Of more guests on one host than these, the ones with least memory are put into sets; alone each of them is looked at.
_MOST_IN_SETS: Final = 40


class Move(NamedTuple):
    """One guest goes to the host with the id `target`."""

    guest: Guest
    target: str


def cheapest_moves(
    snapshot: Snapshot, request: Request, policy: Policy, guests: Sequence[Guest], *, most: int, tried: int
) -> Iterator[tuple[Move, ...]]:
    """Yield sets of at most `most` moves after which a refused request fits, cheapest first, until `tried` sets were looked at.

    No part of a set would do. A set is left out only if its guests find no places elsewhere together; the moves may be
    made in any order.
    """
    of_row: dict[int, list[Guest]] = {}
    able: dict[Request, Flags] = {}
    for guest in guests:
        row = snapshot.row_of[guest.host_id]
        if guest.request not in able:
            able[guest.request] = failing_rows(snapshot, guest.request) == 0
        # Whoever has no place alone is in no set: of the few sets that are tried none is lost to it.
        if np.count_nonzero(able[guest.request]) > able[guest.request][row]:
            of_row.setdefault(row, []).append(guest)
    failing = failing_rows(snapshot, request)
    short = [row for row in sorted(of_row) if failing[row] and not failing[row] & ~_ROOM]
    places: dict[str, list[str]] = {}
    ways = heapq.merge(*(_sets(snapshot, request, row, of_row[row], most, tried) for row in short), key=_cost)
    for leaving in itertools.islice(ways, tried):
        for guest in leaving:
            if guest.id not in places:
                places[guest.id] = _places(snapshot, guest, policy, most)
        # Who has least choice chooses first.
        found = _placed(snapshot, sorted(leaving, key=lambda guest: (len(places[guest.id]), guest.id)), places, policy)
        if found is not None:
            yield tuple(sorted(found, key=lambda move: move.guest.id))


def _cost(leaving: Sequence[Guest]) -> tuple[int, int, tuple[str, ...]]:
    """MiB of memory, then the number of moves."""
    memory = sum(guest.request.size.memory_mib for guest in leaving)
    return memory, len(leaving), tuple(guest.id for guest in leaving)


def _sets(
    snapshot: Snapshot, request: Request, row: int, guests: Sequence[Guest], most: int, tried: int
) -> list[tuple[Guest, ...]]:
    """Return the `tried` cheapest sets of guests that make room when they leave their host, and no part of which does."""
    guests = sorted(guests, key=lambda guest: (guest.request.size.memory_mib, guest.id))
    lacks = np.array([_lack(snapshot, request, row, place) for place in range(len(RESOURCES))])
    frees = np.array([[getattr(guest.request.resources, name) for name in RESOURCES] for guest in guests])
    memory = np.array([guest.request.size.memory_mib for guest in guests])
    found = list[tuple[Guest, ...]]()
    for size in range(1, most + 1):
        members = _combinations(len(guests) if size == 1 else min(len(guests), _MOST_IN_SETS), size)
        total = frees[members].sum(axis=1)
        enough = (total >= lacks).all(axis=1)
        for place in range(size) if size > 1 else ():
            enough &= (total - frees[members[:, place]] < lacks).any(axis=1)
        sets = members[enough]
        cheapest = np.argsort(memory[sets].sum(axis=1), kind="stable")[:tried]
        found += [tuple(guests[member] for member in chosen) for chosen in sets[cheapest].tolist()]
    return sorted(found, key=_cost)[:tried]


def _lack(snapshot: Snapshot, request: Request, row: int, place: int) -> int:
    """What is missing of a resource; 0 or less where nothing is, or nothing is asked."""
    name = RESOURCES[place]
    asked: int = getattr(request.resources, name)
    return asked - int(room(snapshot.capacity[name][row], snapshot.used[name][row])) if asked > 0 else 0


@lru_cache(maxsize=128)
def _combinations(count: int, size: int) -> Counts:
    return np.array(list(itertools.combinations(range(count), size)), dtype=np.int64).reshape(-1, size)


def _places(snapshot: Snapshot, guest: Guest, policy: Policy, most: int) -> list[str]:
    """Return the best hosts for a guest, `most` of them: of so many, one is left when the others have theirs."""
    elsewhere = replace(guest.request, forbidden_hosts=guest.request.forbidden_hosts | {guest.host_id})
    return [candidate.host_id for candidate in itertools.islice(rank(snapshot, elsewhere, policy).candidates, most)]


def _placed(
    snapshot: Snapshot, leaving: Sequence[Guest], places: dict[str, list[str]], policy: Policy
) -> tuple[Move, ...] | None:
    """Return where each goes, if there is room for all of them; every combination of their places is tried."""
    if not leaving:
        return ()
    first, *others = leaving
    for target in places[first.id]:
        host = snapshot.hosts[snapshot.row_of[target]]
        if not rank((host,), first.request, policy).candidates:
            continue
        after = snapshot.after(target, first.request.resources, group=first.request.group)
        rest = _placed(after, others, places, policy)
        if rest is not None:
            return Move(first, target), *rest
    return None
