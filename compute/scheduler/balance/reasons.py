"""Why each step of a plan is there, in words for operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from compute.scheduler.balance.cluster import CORES, Cluster
from compute.scheduler.balance.layout import Layout
from compute.scheduler.balance.order import Step

_MEASURES: Final = ("memory", "vCPUs", "CPU load")


def reasons(cluster: Cluster, steps: Sequence[Step], limit: float) -> list[str]:
    """Return what each step does when its turn comes: what it parts; CPU load, where its source has more than the limit; or
    the measure that it evens out most.

    Shares are of a host's own memory (its system's included) and threads: vCPUs may be over 100 %.
    """
    layout, said = Layout(cluster), list[str]()
    last = {step.guest: number for number, step in enumerate(steps)}
    for number, (guest, source, target) in enumerate(steps):
        shares, deviations, conflicts = layout.shares.copy(), layout.deviations(), layout.conflicts
        layout.move(guest, target)
        if last[guest] != number:
            said.append(f"out of the way, until there is room on {cluster.hosts[steps[last[guest]].target]}")
        elif layout.conflicts < conflicts:
            said.append(f"parts it from another member of its group on {cluster.hosts[source]}")
        else:
            hot = shares[CORES, source] > limit
            row = CORES if hot else int(np.argmin(layout.deviations() - deviations))
            ends = (
                f"{cluster.hosts[host]} {shares[row, host]:.0%} -> {layout.shares[row, host]:.0%}"
                for host in (source, target)
            )
            said.append(f"{_MEASURES[row]}: {', '.join(ends)}")
    return said
