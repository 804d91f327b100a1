"""One arrangement of guests on hosts, and what moves would make of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compute.scheduler.balance.cluster import Cluster, Floats, Ints

Flags = NDArray[np.bool_]

# Two members of an anti-affinity group on one host weigh this much: more than any imbalance that is worth planning for.
CONFLICT = 2.0


class Layout:
    """Where each guest is, kept up to date move by move. The score is 0 where all hosts are alike, and less is better:

    sd(free share of memory) + sd(vCPUs per thread) + sd(busy cores per thread) + CONFLICT x conflicts

    over the hosts, with the population's standard deviation; a host with m members of an anti-affinity group has m - 1
    conflicts. It is what Ganeti's `hbal` makes less on shared storage.
    """

    def __init__(self, cluster: Cluster, host_of: Ints | None = None) -> None:
        self.cluster = cluster
        self.host_of = (cluster.host_of if host_of is None else host_of).copy()
        hosts = len(cluster.hosts)
        self.used: Floats = np.stack([np.bincount(self.host_of, row, hosts) for row in cluster.needs])
        self.members = np.zeros((int(cluster.group.max(initial=-1)) + 1, hosts), dtype=np.int64)
        grouped = np.flatnonzero(cluster.group >= 0)
        np.add.at(self.members, (cluster.group[grouped], self.host_of[grouped]), 1)
        self.conflicts = int(np.maximum(self.members - 1, 0).sum())
        self._sum_up()

    def _sum_up(self) -> None:
        """From the amounts each time: sums that were only added to would drift."""
        self.shares = self.used / self.cluster.totals
        self.shares[0] += self.cluster.reserved / self.cluster.totals[0]
        self.sums = self.shares.sum(axis=1)
        self.squares = np.einsum("kh,kh->k", self.shares, self.shares)

    def score(self) -> float:
        return float(self.deviations().sum()) + CONFLICT * self.conflicts

    def deviations(self) -> Floats:
        """The standard deviation of each measure's shares."""
        hosts = self.shares.shape[1]
        deviations: Floats = np.sqrt(np.maximum(self.squares / hosts - (self.sums / hosts) ** 2, 0.0))
        return deviations

    def loads(self) -> Floats:
        """Busy cores per thread of each host: 1 is fully busy; more, and its guests get less than they ask for."""
        loads: Floats = self.shares[2]
        return loads

    def guests_on(self, host: int) -> Ints:
        return np.flatnonzero(self.host_of == host)

    def move(self, guest: int, target: int) -> None:
        """Put the guest on the host `target`, whether or not that is legal."""
        source, group = int(self.host_of[guest]), int(self.cluster.group[guest])
        if source == target:
            return
        self.used[:, source] -= self.cluster.needs[:, guest]
        self.used[:, target] += self.cluster.needs[:, guest]
        self.host_of[guest] = target
        if group >= 0:
            self.conflicts += int(self.members[group, target] > 0) - int(self.members[group, source] > 1)
            self.members[group, source] -= 1
            self.members[group, target] += 1
        self._sum_up()

    def may_move(self, guests: Ints, targets: Ints) -> Flags:
        """Whether each guest may go to each target now (arrays that broadcast): room there, and nobody of its group."""
        cluster = self.cluster
        memory = self.used[0, targets] + cluster.needs[0, guests] <= cluster.room[0, targets]
        legal: Flags = memory & (self.used[1, targets] + cluster.needs[1, guests] <= cluster.room[1, targets])
        legal &= self.host_of[guests] != targets
        if len(self.members):
            group = cluster.group[guests]
            legal &= (group < 0) | (self.members[group, targets] == 0)
        return legal

    def after_move(self, guests: Ints, targets: Ints) -> Floats:
        """The score once the guest is on the target, another host than its own, for each pair (arrays that broadcast)."""
        source = self.host_of[guests]
        score = self._after(self.cluster.needs[:, guests], source, targets)
        if len(self.members):
            group = self.cluster.group[guests]
            parted = (group >= 0) & (self.members[group, source] > 1)
            met = (group >= 0) & (self.members[group, targets] > 0) & (source != targets)
            score += CONFLICT * (self.conflicts - parted.astype(np.int64) + met)
        return score

    def after_exchange(self, guests: Ints, others: Ints) -> Floats:
        """The score once each guest has changed places with the other, infinite where the end would not be legal."""
        cluster, source, target = self.cluster, self.host_of[guests], self.host_of[others]
        more = cluster.needs[:, guests] - cluster.needs[:, others]
        legal = source != target
        for row in range(2):
            legal = legal & (self.used[row, target] + more[row] <= cluster.room[row, target])
            legal &= self.used[row, source] - more[row] <= cluster.room[row, source]
        conflicts = np.int64(self.conflicts)
        if len(self.members):
            here, there = cluster.group[guests], cluster.group[others]
            alike = here == there
            legal &= (here < 0) | alike | (self.members[here, target] == 0)
            legal &= (there < 0) | alike | (self.members[there, source] == 0)
            conflicts = conflicts - ((here >= 0) & ~alike & (self.members[here, source] > 1)).astype(np.int64)
            conflicts = conflicts - ((there >= 0) & ~alike & (self.members[there, target] > 1)).astype(np.int64)
        score = self._after(more, source, target) + CONFLICT * conflicts
        return np.where(legal, score, np.inf)

    def _after(self, needs: Floats, source: Ints, target: Ints) -> Floats:
        """The three deviations together, once `needs` have gone from source to target."""
        hosts = self.shares.shape[1]
        total: Floats = np.zeros(())
        for row in range(3):
            here, there = self.shares[row, source], self.shares[row, target]
            lost, won = needs[row] / self.cluster.totals[row, source], needs[row] / self.cluster.totals[row, target]
            mean = (self.sums[row] - lost + won) / hosts
            square = self.squares[row] + lost * (lost - 2.0 * here) + won * (won + 2.0 * there)
            total = total + np.sqrt(np.maximum(square / hosts - mean * mean, 0.0))
        return total
