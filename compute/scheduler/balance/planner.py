"""The whole way: from a cluster and a goal to a plan, in steps that are legal one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np

from compute.scheduler.balance.carrying import Pace
from compute.scheduler.balance.cluster import MEMORY, Cluster
from compute.scheduler.balance.descent import Descent
from compute.scheduler.balance.layout import Layout
from compute.scheduler.balance.order import Step, ordered
from compute.scheduler.balance.reasons import reasons
from compute.scheduler.balance.relief import relieve
from compute.scheduler.balance.survival import surviving
from compute.scheduler.balance.timetable import Timetable

# How far beyond a target to go before moves are taken back: no one share is best for all clusters, so each is tried.
_BEYOND: Final = (0.0, 0.1, 0.25, 0.4)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """`before` and `after` are the cluster as it is and as the steps leave it.

    `uncovered`, where it was asked for: how many losses of hosts could not be absorbed before the first step, and after each.
    """

    steps: tuple[Step, ...]
    before: Layout
    after: Layout
    uncovered: tuple[int, ...] | None = None

    def as_json(self, limit: float, pace: Pace) -> dict[str, Any]:
        """The plan in words for programs: `moves` in order, when each runs, and what they do.

        Memory in MiB, times in seconds from the first start, loads as shares of a host.
        """
        cluster, timetable = self.before.cluster, Timetable.of(self.before.cluster, self.steps, pace)
        why = reasons(cluster, self.steps, limit)
        losses: list[dict[str, Any]] = [{} for _ in self.steps]
        if self.uncovered is not None:
            losses = [{"uncovered_losses": count} for count in self.uncovered[1:]]
        return {
            "moves": [
                {
                    "instance": cluster.guests[guest],
                    "from": cluster.hosts[source],
                    "to": cluster.hosts[target],
                    "memory_mib": int(cluster.needs[MEMORY, guest]),
                    "start": round(start, 3),
                    "end": round(end, 3),
                    "seconds": round(end - start, 3),
                    "reason": reason,
                }
                | loss
                for (guest, source, target), (start, end), reason, loss in zip(
                    self.steps, timetable.slots, why, losses, strict=True
                )
            ],
            **({} if self.uncovered is None else {"uncovered_losses_before": self.uncovered[0]}),
            "seconds": round(timetable.seconds, 3),
            "busiest_link_seconds": round(timetable.least, 3),
            "memory_mib": int(sum(cluster.needs[MEMORY, step.guest] for step in self.steps)),
            "before": _figures(self.before, limit),
            "after": _figures(self.after, limit),
        }


def level(cluster: Cluster, *, target: float = 0.0, most: int | None = None) -> Plan:
    """Make the hosts alike: until the score is at most `target`, by at most `most` steps; less is not to be had cheaply.

    A score above the target means that it was not reached.
    """

    def descend(beyond: float) -> Callable[[Layout, int | None], None]:
        return lambda layout, guests: Descent(layout, guests).to_score(target, beyond=beyond)

    plans = [_plan(cluster, descend(beyond), most) for beyond in (_BEYOND if target > 0.0 else _BEYOND[:1])]
    return min(plans, key=lambda plan: (plan.after.score() > target, len(plan.steps), plan.after.score()))


def relief(cluster: Cluster, limit: float, *, most: int | None = None) -> Plan:
    """Bring all hosts to at most `limit` busy cores per thread, by as few steps as can be, and at most `most`."""
    return _plan(cluster, lambda layout, guests: relieve(layout, limit, guests), most)


def keeping_losses(plan: Plan, count: int) -> Plan:
    """The plan's steps that may be taken without a loss of `count` hosts that could be absorbed before and no more can be.

    Raises ValueError where there are too many sets of hosts to look at.
    """
    cluster = plan.before.cluster
    steps, counts = surviving(cluster, plan.steps, count)
    return replace(
        plan,
        steps=tuple(steps),
        after=_carried_out(cluster, steps),
        uncovered=tuple(counts),
    )


def _plan(cluster: Cluster, improve: Callable[[Layout, int | None], None], most: int | None) -> Plan:
    layout = Layout(cluster)
    improve(layout, most)
    hops = len(cluster.guests) if most is None else most - int(np.count_nonzero(layout.host_of != cluster.host_of))
    steps = tuple(islice(ordered(cluster, layout.host_of, hops=hops), most))
    return Plan(steps, Layout(cluster), _carried_out(cluster, steps))


def _carried_out(cluster: Cluster, steps: Iterable[Step]) -> Layout:
    layout = Layout(cluster)
    for step in steps:
        layout.move(step.guest, step.target)
    return layout


def _figures(layout: Layout, limit: float) -> dict[str, Any]:
    loads = layout.loads()
    return {
        "score": round(layout.score(), 6),
        "conflicts": layout.conflicts,
        "highest_load": round(float(loads.max()), 4),
        "hosts_over_limit": int((loads > limit).sum()),
    }
