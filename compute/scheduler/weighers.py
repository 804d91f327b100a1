"""Weighers: each gives a host that fits a value from 0 (worst) to 1 (best); the policy's weights add them up.

Values never depend on the other candidates: one more host cannot change the order of the rest, and a recorded score
can be checked from its host alone. Each weigher exists for one host and for rows of a snapshot, with the same
operations in the same order, so that both give the same float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from compute.scheduler.model import RESOURCES, HostState, Inventory, Policy, Request, Resources
from compute.scheduler.snapshot import Counts, Shares, Snapshot

Value = TypeVar("Value", float, Shares)

_NOTHING: Final = Resources(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Weigher:
    """`weigh` values one host, `weigh_rows` the given rows of a snapshot."""

    name: str
    weigh: Callable[[HostState, Request], float]
    weigh_rows: Callable[[Snapshot, Request, Counts], Shares]


def _shares(inventory: Inventory, taken: Resources) -> tuple[float, float, float]:
    """How full each resource is with this much taken, 0..1."""
    capacity = inventory.capacity()
    return (
        _share(taken.vcpus, capacity.vcpus),
        _share(taken.memory_mib, capacity.memory_mib),
        _share(taken.disk_gib, capacity.disk_gib),
    )


def _share(taken: int, capacity: int) -> float:
    if capacity <= 0:
        return 1.0 if taken > 0 else 0.0
    return min(taken / capacity, 1.0)


def _shares_rows(snapshot: Snapshot, asked: Resources, rows: Counts) -> list[Shares]:
    """How full each resource of the rows is once `asked` is there as well."""
    shares = []
    for resource in RESOURCES:
        capacity, used = snapshot.capacity[resource], snapshot.used[resource]
        if len(rows) < len(snapshot):
            capacity, used = capacity[rows], used[rows]
        taken = used + getattr(asked, resource)
        share: Shares = np.minimum(taken / np.maximum(capacity, 1), 1.0)
        nothing = capacity <= 0
        if nothing.any():
            share[nothing] = taken[nothing] > 0
        shares.append(share)
    return shares


def _spread(host: HostState, request: Request) -> float:
    return 1.0 - max(_shares(host.inventory, host.used + request.resources))


def _spread_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    vcpus, memory, disk = _shares_rows(snapshot, request.resources, rows)
    return 1.0 - np.maximum(np.maximum(vcpus, memory), disk)


# Measured with tests/benchmarks/scheduler_packing.py: below 64 skew hardly counts; far above 128 hosts stay half full.
_SKEW_WEIGHT: Final = 128.0
# Skew (a difference of two shares) up to here counts by its square, as chance does; from here on only linearly.
_SKEW_TURN: Final = 0.0625
# No request can gain or lose more than this per unit of its own size: best fit 2, and 2 x weight x turn in two pairs.
_SKEW_MOST: Final = 4.0 * _SKEW_WEIGHT * _SKEW_TURN


def _worth(shares: Sequence[Value], root: Callable[[Value], Value]) -> Value:
    """What a host so full is worth to later requests: much for one large hole, little for a lopsided one.

    The sum of squares of what is free makes the best fit the best choice (Panigrahy et al. 2011, "Heuristics for vector
    bin packing", norm-based greedy): it keeps large holes whole. A host whose vCPUs are gone strands its memory, so the
    difference of each two shares costs. By its square it would be shared out evenly, and a pool that simply has too
    little of one resource would be spread; so a large one costs linearly, the same wherever the request goes
    (pseudo-Huber), and only what chance has brought is evened out.
    """
    vcpus, memory, disk = (1.0 - share for share in shares)
    skew = _bend(vcpus - memory, root) + _bend(vcpus - disk, root) + _bend(memory - disk, root)
    return vcpus * vcpus + memory * memory + disk * disk - skew


def _bend(skew: Value, root: Callable[[Value], Value]) -> Value:
    return 2.0 * _SKEW_WEIGHT * _SKEW_TURN * (root(_SKEW_TURN * _SKEW_TURN + skew * skew) - _SKEW_TURN)


def _gain(before: Sequence[Value], after: Sequence[Value], size: Value, root: Callable[[Value], Value]) -> Value:
    """How the host's worth changes per unit of what the request takes of it, as 0..1."""
    gained = (_worth(after, root) - _worth(before, root)) / size
    return (gained + 2.0 + _SKEW_MOST) / (2.0 + 2.0 * _SKEW_MOST)


def _pack(host: HostState, request: Request) -> float:
    before, after = _shares(host.inventory, host.used), _shares(host.inventory, host.used + request.resources)
    size = after[0] - before[0] + (after[1] - before[1]) + (after[2] - before[2])
    return _gain(before, after, size if size > 0.0 else 1.0, math.sqrt)


def _pack_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    before, after = _shares_rows(snapshot, _NOTHING, rows), _shares_rows(snapshot, request.resources, rows)
    size = after[0] - before[0] + (after[1] - before[1]) + (after[2] - before[2])
    return _gain(before, after, np.where(size > 0.0, size, 1.0), np.sqrt)


def _load(host: HostState, _: Request) -> float:
    return 1.0 - min(max(host.load, 0.0), 1.0)


def _load_rows(snapshot: Snapshot, _: Request, rows: Counts) -> Shares:
    busy = np.minimum(np.maximum(snapshot.load[rows], 0.0), 1.0)
    idle: Shares = 1.0 - busy
    return idle


def _affinity(host: HostState, request: Request) -> float:
    if request.group is None or request.group_rule not in ("soft_anti_affinity", "soft_affinity"):
        return 0.0
    members = max(0, host.group_counts.get(request.group, 0))
    apart = 1.0 / (1.0 + members)
    return apart if request.group_rule == "soft_anti_affinity" else 1.0 - apart


def _affinity_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    if request.group is None or request.group_rule not in ("soft_anti_affinity", "soft_affinity"):
        return np.zeros(len(rows), dtype=np.float64)
    members = np.zeros(len(snapshot), dtype=np.int64)
    for row, count in snapshot.groups.get(request.group, {}).items():
        members[row] = max(0, count)
    apart: Shares = 1.0 / (1.0 + members[rows].astype(np.float64))
    together: Shares = 1.0 - apart
    return apart if request.group_rule == "soft_anti_affinity" else together


def _wants_domains(request: Request) -> bool:
    return request.group is not None and request.group_rule in ("anti_affinity", "soft_anti_affinity")


def _domain(host: HostState, request: Request) -> float:
    if not _wants_domains(request) or not host.failure_domain:
        return 0.0
    return 1.0 / (1.0 + max(0, request.domain_members.get(host.failure_domain, 0)))


def _domain_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    values = np.zeros(len(snapshot), dtype=np.float64)
    if _wants_domains(request):
        for domain, flags in snapshot.domains.items():
            if domain:
                values[flags] = 1.0 / (1.0 + max(0, request.domain_members.get(domain, 0)))
    return values[rows]


def _image(host: HostState, request: Request) -> float:
    return 1.0 if request.image in host.images else 0.0


def _image_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    if request.image is None or request.image not in snapshot.images:
        return np.zeros(len(rows), dtype=np.float64)
    return snapshot.images[request.image][rows].astype(np.float64)


WEIGHERS: Final[tuple[Weigher, ...]] = (
    Weigher("spread", _spread, _spread_rows),
    Weigher("pack", _pack, _pack_rows),
    Weigher("load", _load, _load_rows),
    Weigher("affinity", _affinity, _affinity_rows),
    Weigher("domain", _domain, _domain_rows),
    Weigher("image", _image, _image_rows),
)


def active(policy: Policy) -> tuple[tuple[Weigher, float], ...]:
    """Return the weighers that the policy uses, with their weights, in the order in which they are added up."""
    weighted = ((weigher, policy.weight(weigher.name)) for weigher in WEIGHERS)
    return tuple((weigher, weight) for weigher, weight in weighted if weight != 0.0)
