"""Which steps may start while others run or still wait: an order that is legal stays so when steps overtake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from compute.scheduler.balance.cluster import MEMORY, VCPUS, Cluster
from compute.scheduler.balance.order import Step


class Waiting:
    """The steps of a plan that have not started, and what each host holds: now, with moving guests on both their hosts, and
    once what runs has ended.

    A step may overtake others where these stay legal after it. Then the first that waits can always start once nothing
    runs: no two wait for each other.
    """

    def __init__(self, cluster: Cluster, steps: Sequence[Step]) -> None:
        self.steps = steps
        self._needs = [
            (float(cluster.needs[MEMORY, step.guest]), float(cluster.needs[VCPUS, step.guest])) for step in steps
        ]
        self._group = [int(cluster.group[step.guest]) for step in steps]
        self._room = list(zip(*cluster.room.tolist(), strict=True))
        hosts = len(cluster.hosts)
        held = (np.bincount(cluster.host_of, cluster.needs[row], hosts).tolist() for row in (MEMORY, VCPUS))
        self._now = [list(both) for both in zip(*held, strict=True)]
        self._later = [list(both) for both in self._now]
        self._members = Counter(zip(cluster.group.tolist(), cluster.host_of.tolist(), strict=True))
        # Steps that wait, by the hosts they touch and by guest, in the order of the plan.
        self.touching: list[list[int]] = [[] for _ in range(hosts)]
        self._turns: dict[int, list[int]] = {}
        for number, (guest, source, target) in enumerate(steps):
            self.touching[source].append(number)
            self.touching[target].append(number)
            self._turns.setdefault(guest, []).append(number)
        self._moving: set[int] = set()

    def may_start(self, number: int) -> bool:
        guest, _, target = self.steps[number]
        if guest in self._moving or self._turns[guest][0] != number:
            return False
        memory, vcpus = self._needs[number]
        room, now, group = self._room[target], self._now[target], self._group[number]
        if now[0] + memory > room[0] or now[1] + vcpus > room[1] or (group >= 0 and self._members[group, target]):
            return False
        return self._may_overtake(number)

    def _may_overtake(self, number: int) -> bool:
        """Whether those that wait before it find room on its target after it too."""
        target, (memory, vcpus), group = self.steps[number].target, self._needs[number], self._group[number]
        left = [room - held for room, held in zip(self._room[target], self._later[target], strict=True)]
        for other in self.touching[target]:
            if left[0] < memory or left[1] < vcpus:
                return False
            if other == number:
                return True
            sign = 1 if self.steps[other].target == target else -1
            if sign > 0 and group >= 0 and self._group[other] == group:
                return False
            left[0] -= sign * self._needs[other][0]
            left[1] -= sign * self._needs[other][1]
        raise AssertionError(f"step {number} does not wait")

    def start(self, number: int) -> None:
        guest, source, target = self.steps[number]
        self.touching[source].remove(number)
        self.touching[target].remove(number)
        self._moving.add(guest)
        self._members[self._group[number], target] += 1
        for row, need in enumerate(self._needs[number]):
            self._now[target][row] += need
            self._later[target][row] += need
            self._later[source][row] -= need

    def end(self, number: int) -> None:
        guest, source, _ = self.steps[number]
        self._moving.remove(guest)
        self._turns[guest].pop(0)
        self._members[self._group[number], source] -= 1
        for row, need in enumerate(self._needs[number]):
            self._now[source][row] -= need
