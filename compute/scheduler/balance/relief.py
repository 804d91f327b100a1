"""No host over a limit of CPU load, by as few moves as can be."""

from __future__ import annotations

import numpy as np

from compute.scheduler.balance.cluster import CORES, MEMORY, Cluster, Floats, Ints
from compute.scheduler.balance.layout import Flags, Layout


def fewest_moves(cluster: Cluster, limit: float) -> int:
    """How many moves any plan needs at least: from each host over the limit, its busiest guests until it is not."""
    layout = Layout(cluster)
    return sum(len(_busiest(layout, int(host), limit)) for host in np.flatnonzero(layout.loads() > limit))


def relieve(layout: Layout, limit: float, most: int | None = None) -> None:
    """Take guests off the hosts over `limit` (busy cores per thread), hottest host first, by at most `most` moves.

    The guests are as few as can be, and of as few the smallest in memory; they go where they spoil the score least and
    make no host hot. Where a guest finds no such place, the next is tried; where none does, the host stays hot.
    """
    left = len(layout.host_of) if most is None else most
    for host in np.argsort(-layout.loads(), kind="stable"):
        while left > 0 and layout.loads()[host] > limit:
            move = _next(layout, int(host), limit)
            if move is None:
                break
            layout.move(*move)
            left -= 1


def _busiest(layout: Layout, host: int, limit: float) -> Ints:
    """The busiest guests of the host that together are what it has too much."""
    guests = layout.guests_on(host)
    cores = layout.cluster.needs[CORES, guests]
    order = np.argsort(-cores, kind="stable")
    enough = int(np.searchsorted(np.cumsum(cores[order]), _excess(layout, host, limit))) + 1
    return guests[order[:enough]]


def _excess(layout: Layout, host: int, limit: float) -> float:
    """Busy cores over the limit."""
    return float((layout.loads()[host] - limit) * layout.cluster.totals[CORES, host])


def _next(layout: Layout, host: int, limit: float) -> tuple[int, int] | None:
    """A guest that may go, and where to: the lightest that leaves the others of the fewest still enough to do."""
    cluster, hosts = layout.cluster, np.arange(len(layout.cluster.hosts))
    guests = layout.guests_on(host)
    cores = cluster.needs[CORES, guests]
    after = layout.loads()[None, :] + cores[:, None] / cluster.totals[CORES]
    pair = guests[:, None], hosts[None, :]
    legal = layout.may_move(*pair) & (after <= limit)
    goes = legal.any(axis=1)
    if not goes.any():
        return None
    enough = _least_that_suffices(cores, goes, _excess(layout, host, limit))
    chosen = np.flatnonzero(goes & (cores >= enough))
    first = chosen[np.lexsort((guests[chosen], -cores[chosen], cluster.needs[MEMORY, guests[chosen]]))[0]]
    guest = guests[first : first + 1]
    scores = np.where(legal[first], layout.after_move(guest, hosts), np.inf)
    return int(guest[0]), int(np.argmin(scores))


def _least_that_suffices(cores: Floats, goes: Flags, excess: float) -> float:
    """How busy the next guest has to be, so that no more than the fewest have to go: what the busiest others leave of
    the excess. All of those that may go, if all of them are not enough."""
    busy = np.sort(cores[goes])[::-1]
    fewest = int(np.searchsorted(np.cumsum(busy), excess)) + 1
    if fewest > len(busy):
        return 0.0
    # With a guest of this load among them, the fewest - 1 busiest others do the rest.
    others = float(busy[: fewest - 1].sum())
    return min(excess - others, float(busy[fewest - 1]))
