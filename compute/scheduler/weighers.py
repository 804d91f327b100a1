"""Weighers: each gives a host that fits a value from 0 (worst) to 1 (best); the policy's weights add them up.

Values never depend on the other candidates: one more host cannot change the order of the rest, and a recorded score
can be checked from its host alone. Each weigher exists for one host and for rows of a snapshot, with the same
operations in the same order, so that both give the same float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from compute.scheduler.model import RESOURCES, HostState, Policy, Request
from compute.scheduler.snapshot import Counts, Shares, Snapshot


@dataclass(frozen=True, slots=True)
class Weigher:
    """`weigh` values one host, `weigh_rows` the given rows of a snapshot."""

    name: str
    weigh: Callable[[HostState, Request], float]
    weigh_rows: Callable[[Snapshot, Request, Counts], Shares]


def _shares(host: HostState, request: Request) -> tuple[float, float, float]:
    """How full each resource is once the request is on the host, 0..1."""
    capacity, taken = host.inventory.capacity(), host.used + request.resources
    return (
        _share(taken.vcpus, capacity.vcpus),
        _share(taken.memory_mib, capacity.memory_mib),
        _share(taken.disk_gib, capacity.disk_gib),
    )


def _share(taken: int, capacity: int) -> float:
    if capacity <= 0:
        return 1.0 if taken > 0 else 0.0
    return min(taken / capacity, 1.0)


def _shares_rows(snapshot: Snapshot, request: Request, rows: Counts) -> list[Shares]:
    shares = []
    for resource in RESOURCES:
        capacity = snapshot.capacity[resource][rows]
        taken = snapshot.used[resource][rows] + getattr(request.resources, resource)
        share = np.minimum(taken / np.maximum(capacity, 1), 1.0)
        shares.append(np.where(capacity > 0, share, np.where(taken > 0, 1.0, 0.0)))
    return shares


def _spread(host: HostState, request: Request) -> float:
    vcpus, memory, disk = _shares(host, request)
    return 1.0 - max(vcpus, memory, disk)


def _spread_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    vcpus, memory, disk = _shares_rows(snapshot, request, rows)
    return 1.0 - np.maximum(np.maximum(vcpus, memory), disk)


def _pack(host: HostState, request: Request) -> float:
    vcpus, memory, disk = _shares(host, request)
    return (vcpus + memory + disk) / 3.0


def _pack_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    vcpus, memory, disk = _shares_rows(snapshot, request, rows)
    return (vcpus + memory + disk) / 3.0


def _load(host: HostState, _: Request) -> float:
    return 1.0 - min(max(host.load, 0.0), 1.0)


def _load_rows(snapshot: Snapshot, _: Request, rows: Counts) -> Shares:
    busy = np.minimum(np.maximum(snapshot.load[rows], 0.0), 1.0)
    idle: Shares = 1.0 - busy
    return idle


def _affinity(host: HostState, request: Request) -> float:
    if request.group is None or request.group_rule == "anti_affinity":
        return 0.0
    members = max(0, host.group_counts.get(request.group, 0))
    apart = 1.0 / (1.0 + members)
    return apart if request.group_rule == "soft_anti_affinity" else 1.0 - apart


def _affinity_rows(snapshot: Snapshot, request: Request, rows: Counts) -> Shares:
    if request.group is None or request.group_rule == "anti_affinity":
        return np.zeros(len(rows), dtype=np.float64)
    members = np.zeros(len(snapshot), dtype=np.int64)
    for row, count in snapshot.groups.get(request.group, {}).items():
        members[row] = max(0, count)
    apart: Shares = 1.0 / (1.0 + members[rows].astype(np.float64))
    together: Shares = 1.0 - apart
    return apart if request.group_rule == "soft_anti_affinity" else together


WEIGHERS: Final[tuple[Weigher, ...]] = (
    Weigher("spread", _spread, _spread_rows),
    Weigher("pack", _pack, _pack_rows),
    Weigher("load", _load, _load_rows),
    Weigher("affinity", _affinity, _affinity_rows),
)


def active(policy: Policy) -> tuple[tuple[Weigher, float], ...]:
    """Return the weighers that the policy uses, with their weights, in the order in which they are added up."""
    weighted = ((weigher, policy.weight(weigher.name)) for weigher in WEIGHERS)
    return tuple((weigher, weight) for weigher, weight in weighted if weight != 0.0)
