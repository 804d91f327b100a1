"""How much more fits on the hosts that take instances now, in array operations over the columns of a snapshot.

Each size is asked for by itself: the counts of two sizes are alternatives, not a plan. Room that is set aside for promises
counts as used, as it does for a request without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compute.scheduler.capacity import room
from compute.scheduler.model import MODES_OF_KIND, RESOURCES, Resource, Resources
from compute.scheduler.snapshot import Counts, Flags, Snapshot
from compute.wire import Kind


@dataclass(frozen=True, slots=True)
class Headroom:
    """How many more of one size fit as one kind. `hosts`: on how many hosts. `undivided`: how many would, were the free
    room of those hosts that can run the kind in one piece. `limited_by`: what sets the count on most of them; None
    where no host in service can run the kind."""

    count: int
    hosts: int
    undivided: int
    limited_by: Resource | None

    @property
    def lost(self) -> float:
        """The part of the undivided count that is lost because the room lies in pieces: 0 to 1."""
        return 1 - self.count / self.undivided if self.undivided else 0.0


@dataclass(frozen=True, slots=True)
class FullHost:
    """A host in service, and how full it is: `share` of the capacity of `resource`, the one that runs out first."""

    host_id: str
    name: str
    share: float
    resource: Resource
    instances: int


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many hosts are in one pair of states, the operator's and the observed one."""

    admin_state: str
    observed_state: str
    hosts: int


def takes_instances(snapshot: Snapshot) -> Flags:
    """Return which hosts placement uses: enabled and up."""
    nobody = np.zeros(len(snapshot), dtype=np.bool_)
    flags: Flags = snapshot.admin_states.get("enabled", nobody) & snapshot.observed_states.get("up", nobody)
    return flags


def free_room(snapshot: Snapshot) -> dict[Resource, Counts]:
    """Return what is free on each host that takes instances; 0 on the others, and on a host that shrank."""
    serving = takes_instances(snapshot)
    return {
        name: np.where(serving, np.maximum(room(snapshot.capacity[name], snapshot.used[name]), 0), 0)
        for name in RESOURCES
    }


def headroom(snapshot: Snapshot, asked: Resources, kind: Kind) -> Headroom:
    """Return how many more instances of this size and kind fit. Raises ValueError for a size of nothing."""
    wanted = {name: amount for name in RESOURCES if (amount := getattr(asked, name)) > 0}
    if not wanted:
        raise ValueError("a size of nothing fits without end")
    able = np.zeros(len(snapshot), dtype=np.bool_)
    for mode in MODES_OF_KIND[kind]:
        able = able | snapshot.modes.get(mode, False)
    free = {name: np.where(able, amounts, 0) for name, amounts in free_room(snapshot).items()}
    each = {name: free[name] // amount for name, amount in wanted.items()}
    counts = np.minimum.reduce(list(each.values()))
    serving = able & takes_instances(snapshot)
    limits = {name: int(np.count_nonzero(serving & (each[name] == counts))) for name in wanted}
    return Headroom(
        count=int(counts.sum()),
        hosts=int(np.count_nonzero(counts)),
        undivided=min(int(free[name].sum()) // amount for name, amount in wanted.items()),
        limited_by=max(limits.items(), key=lambda limit: limit[1])[0] if serving.any() else None,
    )


def capacity_in_service(snapshot: Snapshot) -> Resources:
    """Return what the hosts that take instances can carry."""
    serving = takes_instances(snapshot)
    return Resources(*(int(snapshot.capacity[name][serving].sum()) for name in RESOURCES))


def stranded(snapshot: Snapshot, sizes: Sequence[Resources]) -> Resources:
    """Return the free room of hosts that take none of these sizes any more, since another resource of theirs is used up."""
    free = free_room(snapshot)
    useless = np.ones(len(snapshot), dtype=np.bool_)
    for size in sizes:
        useless &= np.logical_or.reduce([free[name] < getattr(size, name) for name in RESOURCES])
    return Resources(*(int(free[name][useless].sum()) for name in RESOURCES))


def fullest(snapshot: Snapshot, most: int) -> list[FullHost]:
    """Return up to `most` hosts in service that are the fullest, by the resource that each has least left of; ties by id."""
    if not len(snapshot):
        return []
    shares = np.stack([snapshot.used[name] / np.maximum(snapshot.capacity[name], 1) for name in RESOURCES])
    highest = np.where(takes_instances(snapshot), shares.max(axis=0), -1.0)
    first = np.lexsort((snapshot.id_order, -highest))[:most]
    return [
        FullHost(
            host_id=snapshot.hosts[row].id,
            name=snapshot.hosts[row].name,
            share=float(highest[row]),
            resource=RESOURCES[int(shares[:, row].argmax())],
            instances=snapshot.hosts[row].instances,
        )
        for row in first
        if highest[row] >= 0
    ]


def count_states(snapshot: Snapshot) -> list[StateCount]:
    """Return each pair of states that some host is in, the most hosts first."""
    found = [
        StateCount(admin, observed, int(np.count_nonzero(admins & seen)))
        for admin, admins in snapshot.admin_states.items()
        for observed, seen in snapshot.observed_states.items()
    ]
    return sorted(
        (one for one in found if one.hosts), key=lambda one: (-one.hosts, one.admin_state, one.observed_state)
    )


def largest(sizes: Sequence[tuple[str, Resources]]) -> str | None:
    """Return the name of the largest of these sizes, by memory, then vCPUs, then disk; None where there is none."""
    ordered = sorted(sizes, key=lambda size: (size[1].memory_mib, size[1].vcpus, size[1].disk_gib, size[0]))
    return ordered[-1][0] if ordered else None
