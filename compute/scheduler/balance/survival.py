"""Plans under N+k: a step is taken only where no more losses of hosts would go unabsorbed than before the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compute.scheduler.balance.cluster import MEMORY, VCPUS, Cluster
from compute.scheduler.balance.layout import Layout
from compute.scheduler.balance.order import Step
from compute.scheduler.losses import Guest, Losses
from compute.scheduler.model import HostState, Inventory, Request, Resources
from compute.scheduler.snapshot import Snapshot


def uncovered(layout: Layout, count: int) -> int:
    """Return how many sets of `count` hosts may not be lost: no plan was found for all their guests.

    Raises ValueError where there are too many sets to look at.
    """
    cluster = layout.cluster
    guests = [
        Guest(name, cluster.hosts[host], _request(cluster, guest))
        for guest, (name, host) in enumerate(zip(cluster.guests, layout.host_of.tolist(), strict=True))
    ]
    hosts = [_host(layout, host) for host in range(len(cluster.hosts))]
    return len(Losses.plan(Snapshot.from_hosts(hosts), guests, count).uncovered)


def surviving(cluster: Cluster, steps: Sequence[Step], count: int) -> tuple[list[Step], list[int]]:
    """Return the steps that may be taken one after the other, and how many losses are uncovered before the first and after each.

    A step that would uncover one waits for others to make room; what never may is left out. Raises ValueError as
    `uncovered` does.
    """
    layout = Layout(cluster)
    taken, counts, waiting = list[Step](), [uncovered(layout, count)], list(steps)
    while True:
        before = len(taken)
        for step in tuple(waiting):
            now = _once_taken(layout, step, count)
            if now is not None and now <= counts[0]:
                layout.move(step.guest, step.target)
                waiting.remove(step)
                taken.append(step)
                counts.append(now)
        if len(taken) == before:
            return taken, counts


def _once_taken(layout: Layout, step: Step, count: int) -> int | None:
    """How many losses would be uncovered; None where the step may not be taken now."""
    guest, source, target = step
    if layout.host_of[guest] != source or not layout.may_move(np.array([guest]), np.array([target]))[0]:
        return None
    layout.move(guest, target)
    now = uncovered(layout, count)
    layout.move(guest, source)
    return now


def _request(cluster: Cluster, guest: int) -> Request:
    group = int(cluster.group[guest])
    amount = Resources(int(cluster.needs[VCPUS, guest]), int(cluster.needs[MEMORY, guest]), 0)
    return Request(kind="vm", resources=amount, group=str(group) if group >= 0 else None)


def _host(layout: Layout, host: int) -> HostState:
    room, used = layout.cluster.room[:, host], layout.used[:, host]
    members = layout.members[:, host]
    return HostState(
        id=layout.cluster.hosts[host],
        name=layout.cluster.hosts[host],
        pool_id="",
        inventory=Inventory(Resources(int(room[VCPUS]), int(room[MEMORY]), 0), Resources(0, 0, 0)),
        used=Resources(int(used[VCPUS]), int(used[MEMORY]), 0),
        instances=0,
        admin_state="enabled",
        observed_state="up",
        modes=frozenset({"qemu"}),
        group_counts={str(group): int(members[group]) for group in np.flatnonzero(members)},
    )
