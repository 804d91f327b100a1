"""Refusals told once each: how many hosts, by which filter, in which state, with how much room at best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from compute.scheduler.capacity import room
from compute.scheduler.filters import FILTERS, shortage
from compute.scheduler.model import UNITS, Reason, Refusal, Request
from compute.scheduler.snapshot import Counts, Flags, Snapshot

_STATE_FILTERS: Final = frozenset({"admin_state", "observed_state"})
_ORDER: Final = {item.name: place for place, item in enumerate(FILTERS)}


def tally(reasons: Iterable[Reason]) -> tuple[tuple[str, int], ...]:
    """Return (filter, hosts refused by it first) in filter order; each refused host is counted once."""
    counts: Counter[str] = Counter()
    for reason in reasons:
        counts[reason.filter] += reason.hosts
    return tuple((name, counts[name]) for name in sorted(counts, key=_ORDER.__getitem__))


def of_refusals(refusals: Sequence[Refusal]) -> tuple[Reason, ...]:
    """Group refusals into reasons."""
    groups: dict[tuple[int, str], list[Refusal]] = {}
    for refusal in refusals:
        seen = refusal.seen if refusal.filter in _STATE_FILTERS else ""
        groups.setdefault((_ORDER[refusal.filter], seen), []).append(refusal)
    reasons = []
    for (_, seen), members in sorted(groups.items()):
        first = members[0]
        rooms = [member.free for member in members if member.free is not None]
        free = max(rooms) if rooms else None
        reasons.append(Reason(first.filter, len(members), seen, first.asked, free, first.unit))
    return tuple(reasons)


def of_columns(snapshot: Snapshot, request: Request, bits: Counts) -> tuple[Reason, ...]:
    """Group the failing filters of all rows into reasons, without making a single refusal."""
    if not bits.any():
        return ()
    first = bits & -bits
    states: Mapping[str, Mapping[str, Flags]] = {
        "admin_state": snapshot.admin_states,
        "observed_state": snapshot.observed_states,
    }
    reasons = []
    for place, item in enumerate(FILTERS):
        rows = first == 1 << place
        hosts = int(np.count_nonzero(rows))
        if not hosts:
            continue
        if item.name in _STATE_FILTERS:
            for seen, flags in sorted(states[item.name].items()):
                in_state = int(np.count_nonzero(rows & flags))
                if in_state:
                    reasons.append(Reason(item.name, in_state, seen))
        elif item.measure is not None:
            lacking = [shortage(snapshot.hosts[row], request, item.measure) for row in np.flatnonzero(rows).tolist()]
            best = max((short for short in lacking if short is not None), key=lambda short: short.free)
            reasons.append(Reason(item.name, hosts, "", best.asked, best.free, best.unit))
        elif item.resource is None:
            reasons.append(Reason(item.name, hosts))
        else:
            free = room(snapshot.capacity[item.resource][rows], snapshot.used[item.resource][rows])
            asked: int = getattr(request.resources, item.resource)
            reasons.append(Reason(item.name, hosts, "", asked, int(free.max()), UNITS[item.resource]))
    return tuple(reasons)
