"""Towards the best score: the best single move each time, and where none helps, the best exchange of two guests."""

from __future__ import annotations

from typing import Final

import numpy as np

from compute.scheduler.balance.cluster import Floats, Ints
from compute.scheduler.balance.layout import Layout

# What a move has to take off the score. A tenth of it takes the score of 400 hosts from 0.05 to 0.03, for three times the
# moves and ten times the CPU.
_LEAST_GAIN: Final = 0.00025
# Guests whose remembered gain is looked at anew in each step.
_LOOKED_AT: Final = 48
# Pairs of guest and host that are valued at once: arrays that stay in a processor's cache.
_AT_ONCE: Final = 65_536
# Hosts with which the guests of one host are exchanged.
_PARTNERS: Final = 48


class Descent:
    """Makes a layout's score less, until it is low enough or nothing helps. The same layout gives the same end.

    What each guest could gain at best is remembered. A move spoils its target for all others: remembered gains are too
    good rather than too bad, and looking at the best of them anew finds the best move (lazy greedy, Minoux 1978). What
    a move makes better, its source for all guests and its two hosts' own guests, is valued at once.
    """

    def __init__(self, layout: Layout, most: int | None = None) -> None:
        """Start from the layout as it is. At most `most` guests will be elsewhere in the end; None: any number."""
        self.layout, self._start = layout, layout.host_of.copy()
        self._hosts, self._all = np.arange(len(layout.cluster.hosts)), np.arange(len(layout.host_of))
        self._most = len(self._start) if most is None else most
        self._moved = 0
        self._target = np.zeros(len(layout.host_of), dtype=np.int64)
        # The score that the guest's best move would leave, less the score at that time: negative is good.
        self._gain = np.zeros(len(layout.host_of))

    def to_score(self, target: float, *, beyond: float = 0.0) -> None:
        """Go down to the target, `beyond` (a share of it) further where possible, and take back what is not needed for it."""
        if len(self._hosts) < 2 or not len(self._all):
            return
        aim = target * (1.0 - beyond)
        self._value(self._all)
        while self._single_moves(aim) and self._exchanges(aim):
            self._value(self._all)
        if target > 0.0:
            self._take_back(target)

    def _single_moves(self, aim: float) -> bool:
        """The best move each time. Returns whether the aim is still to be reached when none helps."""
        looked_at_all = False
        while self.layout.score() > aim:
            self._value(self._most_promising())
            gain = self._allowed()
            guest = int(np.argmin(gain))
            if gain[guest] <= -_LEAST_GAIN:
                self._move(guest, int(self._target[guest]))
                looked_at_all = False
            elif looked_at_all:
                return True
            else:
                self._value(self._all)
                looked_at_all = True
        return False

    def _take_back(self, target: float) -> None:
        """Put guests back while the score stays at the target or below; those still moved find better places each time."""
        while self.layout.score() <= target:
            moved = np.flatnonzero(self.layout.host_of != self._start)
            home = self._start[moved]
            scores = np.where(self.layout.may_move(moved, home), self.layout.after_move(moved, home), np.inf)
            best = int(np.argmin(scores)) if len(moved) else 0
            if not len(moved) or scores[best] > target:
                return
            self._move(int(moved[best]), int(home[best]))
            self._most = self._moved
            self._settle()

    def _settle(self) -> None:
        """Better places for the guests that have moved."""
        while True:
            self._value(self._most_promising())
            gain = self._allowed()
            guest = int(np.argmin(gain))
            if gain[guest] > -_LEAST_GAIN:
                return
            self._move(guest, int(self._target[guest]))

    def _left(self) -> int:
        """How many more guests may leave their places."""
        return self._most - self._moved

    def _move(self, guest: int, target: int) -> None:
        """Move the guest, and value anew what that has made better."""
        source = int(self.layout.host_of[guest])
        self._put(guest, target)
        self._value(np.flatnonzero((self.layout.host_of == source) | (self.layout.host_of == target)))
        self._offer(source)

    def _put(self, guest: int, target: int) -> None:
        self._moved += int(self.layout.host_of[guest] == self._start[guest]) - int(target == self._start[guest])
        self.layout.move(guest, target)

    def _allowed(self) -> Floats:
        """Gains, where no more guests may leave their places those of others only."""
        return self._gain if self._left() > 0 else np.where(self.layout.host_of == self._start, np.inf, self._gain)

    def _most_promising(self) -> Ints:
        gain = self._allowed()
        if len(gain) <= _LOOKED_AT:
            return self._all
        return np.argpartition(gain, _LOOKED_AT)[:_LOOKED_AT]

    def _value(self, guests: Ints) -> None:
        """Find the best target of each guest as things are."""
        now, rows = self.layout.score(), max(1, _AT_ONCE // len(self._hosts))
        for first in range(0, len(guests), rows):
            some = guests[first : first + rows]
            pairs = some[:, None], self._hosts[None, :]
            scores = np.where(self.layout.may_move(*pairs), self.layout.after_move(*pairs), np.inf)
            best = np.argmin(scores, axis=1)
            self._target[some] = best
            self._gain[some] = scores[np.arange(len(some)), best] - now

    def _offer(self, host: int) -> None:
        """Someone has left the host: is it now the best target for others?"""
        where = np.full(1, host)
        gain = np.where(self.layout.may_move(self._all, where), self.layout.after_move(self._all, where), np.inf)
        gain -= self.layout.score()
        better = gain < self._gain
        self._gain[better], self._target[better] = gain[better], host

    def _exchanges(self, aim: float) -> bool:
        """Exchange guests of the hosts furthest from the mean with others'. Returns whether the aim is still to be reached
        and a single move may help again."""
        found, tried = False, np.zeros(len(self._hosts), dtype=np.bool_)
        while not tried.all() and self.layout.score() > aim:
            host = int(np.argmax(np.where(tried, -np.inf, self._far())))
            exchange = self._best_exchange(host)
            if exchange is None:
                tried[host] = True
                continue
            guest, other = exchange
            source, target = int(self.layout.host_of[guest]), int(self.layout.host_of[other])
            self._put(guest, target)
            self._put(other, source)
            tried[[source, target]] = False
            found = True
        return found and self.layout.score() > aim

    def _far(self) -> Floats:
        """How much each host adds to the score."""
        layout = self.layout
        mean = layout.sums / len(self._hosts)
        away = (layout.shares - mean[:, None]) ** 2 / np.maximum(layout.deviations(), 1e-9)[:, None]
        far: Floats = away.sum(axis=0)
        return far

    def _partners(self, host: int) -> Ints:
        """The hosts that have most of what this one lacks, and the other way round."""
        layout = self.layout
        if len(self._hosts) <= _PARTNERS:
            others: Ints = self._hosts[self._hosts != host]
            return others
        away = layout.shares - (layout.sums / len(self._hosts))[:, None]
        alike = (away * (away[:, host] / np.maximum(layout.deviations(), 1e-9))[:, None]).sum(axis=0)
        alike[host] = np.inf
        partners: Ints = np.sort(np.argpartition(alike, _PARTNERS)[:_PARTNERS])
        return partners

    def _best_exchange(self, host: int) -> tuple[int, int] | None:
        layout = self.layout
        guests = layout.guests_on(host)
        others = np.flatnonzero(np.isin(layout.host_of, self._partners(host)))
        if not len(guests) or not len(others):
            return None
        scores = layout.after_exchange(guests[:, None], others[None, :])
        if self._left() < 2:
            at_home = layout.host_of == self._start
            leaving = at_home[guests].astype(np.int64)[:, None] + at_home[others][None, :]
            scores = np.where(leaving <= self._left(), scores, np.inf)
        best = int(np.argmin(scores))
        if scores.flat[best] > layout.score() - _LEAST_GAIN:
            return None
        row, column = divmod(best, len(others))
        return int(guests[row]), int(others[column])
