"""What CPU each tenant of a host is entitled to: weighted max-min fairness, down the tenant tree.

Who wants no more than its weighted part gets what it wants; what it leaves is divided among the others by their weights,
and so on until all have what they want or nothing is left (work-conserving). This is what an ideal fair scheduler
delivers: generalized processor sharing (Parekh and Gallager 1993), max-min fairness (Bertsekas and Gallager, Data
Networks, 6.5.2). A parent's part is divided among its children and its own guests, which weigh as one child of normal shares.

What is divided is what all tenants of the host got together, not its nominal capacity: an entitlement then says how that
should have been shared out, whatever else ran on the machine, and the entitlements add up to what was delivered. Nobody
who waited for nothing is entitled to more than it got.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

_OWN = None  # stands for a tenant's own guests beside its children


@dataclass(frozen=True, slots=True)
class Claimant:
    """One tenant on a host, with all below it. `delivered` and `wanted` (at least that) in vCPU."""

    id: Hashable
    parent: Hashable  # None, or a tenant that does not run there, for one at the top
    shares: int
    delivered: float
    wanted: float


def divide(amount: float, wishes: Mapping[Hashable, tuple[int, float]]) -> dict[Hashable, float]:
    """Divide an amount by weighted max-min fairness among wishes of (weight above 0, wanted). O(n log n)."""
    parts: dict[Hashable, float] = {}
    weights = sum(weight for weight, _ in wishes.values())
    # Whoever wants least for its weight is satisfied first; then nobody before it can have left more behind.
    for key, (weight, wanted) in sorted(wishes.items(), key=lambda item: item[1][1] / item[1][0]):
        parts[key] = min(wanted, amount * weight / weights)
        amount -= parts[key]
        weights -= weight
    return parts


def entitlements(claimants: Iterable[Claimant], *, own_shares: int) -> dict[Hashable, float]:
    """Return what each tenant is entitled to of all that was delivered, in vCPU."""
    known = {claimant.id: claimant for claimant in claimants}
    below: dict[Hashable, list[Claimant]] = {}
    for claimant in known.values():
        below.setdefault(claimant.parent if claimant.parent in known else _OWN, []).append(claimant)
    found: dict[Hashable, float] = {}
    tops = below.get(_OWN, [])
    waiting = [(sum(top.delivered for top in tops), tops, 0.0)]
    while waiting:
        amount, children, own = waiting.pop()
        wishes: dict[Hashable, tuple[int, float]] = {child.id: (child.shares, child.wanted) for child in children}
        if own > 0:
            wishes[_OWN] = (own_shares, own)
        parts = divide(amount, wishes)
        for child in children:
            found[child.id] = parts[child.id]
            if inner := below.get(child.id):
                rest = max(0.0, child.wanted - sum(item.wanted for item in inner))
                waiting.append((parts[child.id], inner, rest))
    return found
