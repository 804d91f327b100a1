"""Room that is promised: how many slots to set aside on which hosts, so that every promise outlives host losses.

A promise is a number of *units*, each the size of the largest flavor that it must be able to place: a sum of vCPUs and
MiB spread over many hosts in crumbs keeps no promise. A *slot* is room for one unit on one host. Promises of one unit
and kind share their slots.

With `slots(h)` set aside on host h and `losses` the host failures to outlive, all promises are kept when

    sum of slots(h) - sum of the `losses` largest slots(h)  >=  units promised

since whatever hosts are lost, the ones that are left have a slot for every unit, used or not. (The admission rule of
slot policies as in VMware HA, with the slots standing on hosts instead of being counted over the cluster.) The
smallest sum that does it has its largest slots(h) as small as can be: hosts are filled to one level, like water.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compute.scheduler.model import MODES_OF_KIND, RESOURCES, Resources
from compute.wire import Kind

Slots = NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """The shape of a promise: vCPU, MiB, GiB. `kind` "": it must be able to carry either kind of guest.

    Raises ValueError where an amount is not positive: a unit of nothing could be placed anywhere.
    """

    vcpus: int
    memory_mib: int
    disk_gib: int
    kind: Kind | Literal[""] = ""

    def __post_init__(self) -> None:
        if min(self.vcpus, self.memory_mib, self.disk_gib) < 1:
            raise ValueError(f"a unit has at least 1 vCPU, 1 MiB and 1 GiB: {self}")

    def times(self, count: int) -> Resources:
        """Return the room of `count` units."""
        return Resources(self.vcpus * count, self.memory_mib * count, self.disk_gib * count)

    def slots_of(self, amount: Resources) -> int:
        """Return how many slots of one host `amount` takes up: the ceiling of the resource that needs most."""
        return max(
            -(-amount.vcpus // self.vcpus),
            -(-amount.memory_mib // self.memory_mib),
            -(-amount.disk_gib // self.disk_gib),
        )


@dataclass(frozen=True, slots=True)
class SlotHost:
    """A host in service. `room`: its capacity without what guests outside of any promise use. `filled`: slots in use."""

    id: str
    room: Resources
    modes: frozenset[str]
    filled: Mapping[Unit, int]


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """The promises of this unit cannot be kept: `placeable` units of the `promised` would outlive the losses."""

    unit: Unit
    promised: int
    placeable: int
    losses: int


def surviving(slots: Slots, losses: int) -> int:
    """Return how many slots are left whatever `losses` hosts are lost: the sum without the largest."""
    return int(slots.sum()) - int(np.sort(slots)[::-1][:losses].sum())


def tolerated(slots: Iterable[int], units: int) -> int:
    """Return how many host losses `units` promised units outlive; -1 when they cannot all be placed even now."""
    ordered = sorted(slots, reverse=True)
    left = sum(ordered)
    if left < units:
        return -1
    losses = 0
    for most in ordered:
        left -= most
        if left < units:
            return losses
        losses += 1
    return losses


def carries(modes: frozenset[str], unit: Unit) -> bool:
    """Return whether a host with these proved modes can run what the unit promises."""
    kinds: tuple[Kind, ...] = (unit.kind,) if unit.kind else ("vm", "container")
    return all(modes & MODES_OF_KIND[kind] for kind in kinds)


def set_aside(
    hosts: Sequence[SlotHost], promised: Mapping[Unit, int], losses: int
) -> tuple[dict[Unit, dict[str, int]], tuple[Unplaceable, ...]]:
    """Return unit -> host id -> slots that keep all promises, with as few slots as can be, and what cannot be kept.

    Slots in use stay where they are. Large units choose first: small ones fit into what they leave, not the other way
    round. A unit that cannot be kept gets all the slots there is room for, so that the promise is broken as little as
    can be. Deterministic: ties are broken by host id.
    """
    ordered = sorted(hosts, key=lambda host: host.id)
    room = {name: np.array([getattr(host.room, name) for host in ordered], dtype=np.int64) for name in RESOURCES}
    units = sorted(promised.keys() | {unit for host in ordered for unit in host.filled}, reverse=True)
    filled = {unit: np.array([host.filled.get(unit, 0) for host in ordered], dtype=np.int64) for unit in units}
    for unit in units:
        for name in RESOURCES:
            room[name] -= filled[unit] * getattr(unit, name)
    plan: dict[Unit, dict[str, int]] = {}
    broken = []
    for unit in units:
        able = np.array([carries(host.modes, unit) for host in ordered], dtype=np.bool_)
        most = np.full(len(ordered), 2**40, dtype=np.int64)
        for name in RESOURCES:
            most = np.minimum(most, np.maximum(room[name], 0) // getattr(unit, name))
        most = filled[unit] + np.where(able, most, 0)
        wanted = promised.get(unit, 0)
        slots = _level(filled[unit], most, wanted, losses)
        placeable = surviving(slots, losses)
        if placeable < wanted:
            broken.append(Unplaceable(unit, wanted, placeable, losses))
        plan[unit] = {host.id: int(count) for host, count in zip(ordered, slots, strict=True) if count}
        for name in RESOURCES:
            room[name] -= (slots - filled[unit]) * getattr(unit, name)
    return plan, tuple(broken)


def _level(least: Slots, most: Slots, wanted: int, losses: int) -> Slots:
    """Return the lowest level, between `least` and `most` on each host, at which `wanted` slots outlive the losses."""
    if surviving(least, losses) >= wanted:
        return least
    if surviving(most, losses) < wanted:
        return most
    low, high = 0, int(most.max())
    while high - low > 1:
        middle = (low + high) // 2
        if surviving(np.clip(middle, least, most), losses) >= wanted:
            high = middle
        else:
            low = middle
    slots: Slots = np.clip(low, least, most)
    # One step below the level that suffices: raise single hosts until it does.
    for row in np.flatnonzero(np.clip(high, least, most) > slots):
        if surviving(slots, losses) >= wanted:
            break
        slots[row] += 1
    return slots
