"""A plan carried out on paper: each step starts as soon as it may, and steps share the links that they go over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compute.scheduler.balance.cluster import MEMORY, Cluster, Floats, Ints
from compute.scheduler.balance.order import Step
from compute.scheduler.balance.overtaking import Waiting


@dataclass(frozen=True, slots=True)
class Pace:
    """What moves may take of hosts and links: each host has one link, which carries `rate` MiB/s each way.

    At most `leaving` guests leave a host at a time, at most `coming` come. Raises ValueError for what lets nothing move.
    """

    rate: float
    leaving: int = 1
    coming: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf") or self.leaving < 1 or self.coming < 1:
            raise ValueError(f"nothing can move at {self.rate:g} MiB/s, {self.leaving} leaving, {self.coming} coming")


def per_link(cluster: Cluster, steps: Sequence[Step]) -> Floats:
    """MiB that leave each host, then MiB that come to each."""
    hosts = len(cluster.hosts)
    carried: Floats = np.zeros(2 * hosts)
    for guest, source, target in steps:
        carried[source] += cluster.needs[MEMORY, guest]
        carried[hosts + target] += cluster.needs[MEMORY, guest]
    return carried


class Run:
    """Steps from first to last. `start` and `end` are the seconds at which each does so, filled in by `to_the_end`.

    `behind` is known of each step beforehand: MiB of the longest chain of steps, itself the first, that wait for each other.
    """

    def __init__(self, cluster: Cluster, steps: Sequence[Step], pace: Pace, behind: Floats) -> None:
        self._waiting, self._steps, self._pace, self._behind = Waiting(cluster, steps), steps, pace, behind
        guests, sources, targets = np.array(steps, dtype=np.int64).reshape(len(steps), 3).T
        # The links of each step: the way out of its source, the way in to its target.
        self._hosts = len(cluster.hosts)
        self._out, self._in = sources, targets + self._hosts
        self._left: Floats = cluster.needs[MEMORY, guests].copy()
        self._carries = per_link(cluster, steps)
        self._busy = [0] * (2 * self._hosts)
        self._running: Ints = np.zeros(0, dtype=np.int64)
        self.start, self.end = np.zeros(len(steps)), np.zeros(len(steps))

    def seconds(self) -> float:
        return float(self.end.max(initial=0.0))

    def to_the_end(self) -> None:
        now = 0.0
        self._start_what_may(set(range(self._hosts)), now)
        while len(self._running):
            rates = self._rates()
            needs = self._left[self._running] / rates
            lasts = float(needs.min())
            now += lasts
            ended = needs <= lasts * (1.0 + 1e-9)
            self._left[self._running] -= rates * lasts
            np.subtract.at(self._carries, self._out[self._running], rates * lasts)
            np.subtract.at(self._carries, self._in[self._running], rates * lasts)
            changed = set[int]()
            for number in self._running[ended].tolist():
                self._stop(number, now)
                changed.update(self._steps[number][1:])
            self._running = self._running[~ended]
            self._start_what_may(changed, now)

    def _start_what_may(self, changed: set[int], now: float) -> None:
        """Start steps that touch changed hosts; a start makes its source one of them: what waits may now overtake more."""
        started = []
        while changed:
            waiting = {number for host in changed for number in self._waiting.touching[host]}
            changed = set()
            for number in sorted(waiting, key=self._urgency):
                if self._free(number) and self._waiting.may_start(number):
                    self._waiting.start(number)
                    self._busy[self._out[number]] += 1
                    self._busy[self._in[number]] += 1
                    self.start[number] = now
                    started.append(number)
                    changed.add(self._steps[number].source)
        self._running = np.concatenate([self._running, np.array(started, dtype=np.int64)])

    def _stop(self, number: int, now: float) -> None:
        self._waiting.end(number)
        self._busy[self._out[number]] -= 1
        self._busy[self._in[number]] -= 1
        self.end[number] = now

    def _free(self, number: int) -> bool:
        leaving: int = self._busy[self._out[number]]
        coming: int = self._busy[self._in[number]]
        return leaving < self._pace.leaving and coming < self._pace.coming

    def _urgency(self, number: int) -> tuple[float, float, float, int]:
        """Less is more urgent: most to carry, on the fuller of its links or in its chain; then the plan's order."""
        one, other = self._carries[self._out[number]], self._carries[self._in[number]]
        behind = self._behind[number]
        return -max(one, other, behind), -behind, -min(one, other), number

    def _rates(self) -> Floats:
        """MiB/s of each running step: links are filled evenly, the fullest first (progressive filling; Bertsekas and
        Gallager, Data Networks, 6.5.2)."""
        out, into = self._out[self._running], self._in[self._running]
        free = np.full(2 * self._hosts, self._pace.rate)
        rates, growing = np.zeros(len(out)), np.ones(len(out), dtype=np.bool_)
        while growing.any():
            on_link = np.bincount(out[growing], minlength=len(free)) + np.bincount(into[growing], minlength=len(free))
            share = free / np.maximum(on_link, 1)
            most = np.minimum(share[out], share[into])
            level = float(most[growing].min())
            full = growing & (most <= level * (1.0 + 1e-9))
            rates[full] = level
            np.subtract.at(free, out[full], level)
            np.subtract.at(free, into[full], level)
            growing &= ~full
        return rates
