"""From one arrangement to another, step by step: each step is legal when its turn comes, and what helps most comes first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from compute.scheduler.balance.cluster import Cluster, Ints
from compute.scheduler.balance.layout import Layout


class Step(NamedTuple):
    """One guest goes from host to host (numbers, as in the cluster)."""

    guest: int
    source: int
    target: int


def ordered(cluster: Cluster, goal: Ints, *, hops: int = 0) -> list[Step]:
    """Return legal steps from where the guests are to `goal`, one for each guest that has to go, the most helpful first.

    Where all that is left waits for room that it holds itself, or for a member of its group to leave, the smallest guest
    goes out of the way first and to its place later: one step more, for at most `hops` guests. What cannot be
    reached so is left out.
    """
    layout, steps = Layout(cluster), list[Step]()
    left = np.flatnonzero(cluster.host_of != goal)
    while len(left):
        legal = layout.may_move(left, goal[left])
        if legal.any():
            scores = np.where(legal, layout.after_move(left, goal[left]), np.inf)
            best = int(np.argmin(scores))
            steps.append(_go(layout, int(left[best]), int(goal[left[best]])))
            left = np.delete(left, best)
            continue
        way = _out_of_the_way(layout, left, goal) if hops > 0 else None
        if way is None:
            break
        steps.append(_go(layout, *way))
        hops -= 1
    return steps


def _go(layout: Layout, guest: int, target: int) -> Step:
    step = Step(guest, int(layout.host_of[guest]), target)
    layout.move(guest, target)
    return step


def _out_of_the_way(layout: Layout, left: Ints, goal: Ints) -> tuple[int, int] | None:
    """The smallest of the guests on whose hosts others wait, and where it spoils least; None where none can go."""
    hosts = np.arange(len(layout.cluster.hosts))
    waiting = left[np.isin(layout.host_of[left], goal[left])]
    for guest in waiting[np.argsort(layout.cluster.needs[0, waiting], kind="stable")]:
        one = np.full(1, guest)
        legal = layout.may_move(one, hosts)
        # Not to a host that others wait for: it would be in their way there.
        legal[goal[left]] = False
        if legal.any():
            return int(guest), int(np.argmin(np.where(legal, layout.after_move(one, hosts), np.inf)))
    return None
