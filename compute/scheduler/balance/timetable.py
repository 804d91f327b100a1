"""When each move of a plan runs: as soon as it may, so that the busiest link is never idle for long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from compute.scheduler.balance.carrying import Pace, Run, per_link
from compute.scheduler.balance.cluster import MEMORY, Cluster, Floats
from compute.scheduler.balance.order import Step

# Runs that learn from the ones before which chains of steps are long. Most of what they find the first two find.
_ROUNDS: Final = 6


class Slot(NamedTuple):
    """When a step runs, in seconds from the first start."""

    start: float
    end: float


@dataclass(frozen=True, slots=True, eq=False)
class Timetable:
    """A slot for each step, in the order of the steps.

    seconds     until the last move ends
    least       what the busiest link needs to carry all that goes over it, in seconds: no timetable is shorter
    """

    slots: tuple[Slot, ...]
    seconds: float
    least: float

    @classmethod
    def of(cls, cluster: Cluster, steps: Sequence[Step], pace: Pace) -> Timetable:
        """Start each step as soon as it may, the most urgent first.

        The steps are legal one after the other, as `ordered` gives them. While a guest moves it takes room on both hosts
        and counts for its group on both. Memory is copied once; moves that share a link share its rate evenly. Urgent is
        what goes over the link with most before it, and what starts a long chain of steps that wait for each other's
        room. Chains are known once a run has shown them: the shortest of a few runs is taken (after the squeaky wheel
        optimization of Joslin and Clements, 1999).
        """
        least = float(per_link(cluster, steps).max(initial=0.0)) / pace.rate
        behind = np.zeros(len(steps))
        best: Run | None = None
        for _ in range(_ROUNDS):
            run = Run(cluster, steps, pace, behind)
            run.to_the_end()
            if best is None or run.seconds() < best.seconds():
                best = run
            if best.seconds() <= least * (1.0 + 1e-9):
                break
            behind = np.maximum(behind, _behind(cluster, steps, run))
        assert best is not None
        slots = tuple(map(Slot, best.start.tolist(), best.end.tolist()))
        return cls(slots, best.seconds(), least)


def _behind(cluster: Cluster, steps: Sequence[Step], run: Run) -> Floats:
    """What each step carries, and after it the longest chain of steps that started as soon as its guest had made room."""
    behind: Floats = np.array([cluster.needs[MEMORY, step.guest] for step in steps])
    started = dict[tuple[int, float], list[int]]()
    for number, step in enumerate(steps):
        started.setdefault((step.target, float(run.start[number])), []).append(number)
    for number in np.argsort(-run.end, kind="stable").tolist():
        followers = started.get((steps[number].source, float(run.end[number])), ())
        behind[number] += max((behind[other] for other in followers), default=0.0)
    return behind
