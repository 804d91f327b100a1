"""Guests that ask for more than amounts: CPUs of their own, huge pages, memory of certain NUMA cells.

One function, `place`, decides what fits. Ranking asks it on a snapshot; the claim asks it again under the host's row lock
and keeps what it returns. It is deterministic: the same cells and the same ask give the same cells and CPUs.

What is dedicated stands beside the slice that other guests share, not in it: neither a CPU that guests pin nor a huge page
is among a host's vCPU and MiB. Nothing here is ever overcommitted. Memory in MiB, pages in KiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

KIB_PER_MIB: Final = 1024
Measure = Literal["dedicated_cpus", "huge_pages", "numa_memory", "numa_cells"]
MEASURES: Final[tuple[Measure, ...]] = ("dedicated_cpus", "huge_pages", "numa_memory", "numa_cells")
_PLENTY: Final = 2**31


@dataclass(frozen=True, slots=True)
class Cell:
    """One NUMA cell of a host, with what is free in it.

    `cpus`: those that guests may have for themselves, in order; `shared_cpus`: how many others use together;
    `memory_mib` without huge pages, below 0 in a cell that shrank; `pages`: (size in KiB, free), in order of size.
    """

    id: int
    cpus: tuple[int, ...] = ()
    shared_cpus: int = 0
    memory_mib: int = 0
    pages: tuple[tuple[int, int], ...] = ()

    def free_pages(self, size_kib: int) -> int:
        """Return how many pages of this size are free."""
        return next((free for size, free in self.pages if size == size_kib), 0)


@dataclass(frozen=True, slots=True)
class NumaAsk:
    """What a guest asks. It is spread evenly over `nodes` cells of one host, each of them another one.

    `page_kib` 0: ordinary memory. `pinned`: each vCPU has a CPU to itself; else they run on the cells' shared CPUs.
    `times`: only where so many such guests would fit; one of them is placed.
    Raises ValueError for what cannot be spread evenly.
    """

    nodes: int
    vcpus: int
    memory_mib: int
    page_kib: int = 0
    pinned: bool = False
    times: int = 1

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.vcpus % self.nodes or self.memory_mib % self.nodes:
            raise ValueError(f"{self.vcpus} vCPU and {self.memory_mib} MiB do not spread over {self.nodes} cells")
        if self.page_kib and self.node_memory_mib * KIB_PER_MIB % self.page_kib:
            raise ValueError(f"{self.node_memory_mib} MiB are not made of pages of {self.page_kib} KiB")

    @property
    def node_vcpus(self) -> int:
        return self.vcpus // self.nodes

    @property
    def node_memory_mib(self) -> int:
        return self.memory_mib // self.nodes

    @property
    def node_pages(self) -> int:
        return self.node_memory_mib * KIB_PER_MIB // self.page_kib if self.page_kib else 0


@dataclass(frozen=True, slots=True)
class CellShare:
    """What one of a guest's nodes has of one cell. `cpus`: its own, one for each vCPU; () where they are shared."""

    cell: int
    vcpus: int
    memory_mib: int
    page_kib: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is missing: of `measure` each node asks `asked`, and the best cells left have `free` (`unit` says of what)."""

    measure: Measure
    asked: int
    free: int
    unit: str


def place(cells: Sequence[Cell], ask: NumaAsk) -> tuple[CellShare, ...] | None:
    """Return what the guest gets, one share for each of its nodes, or None where it does not fit.

    A guest of one node takes the fullest cell that will do, so that large guests still find an empty one. One of several
    takes the emptiest: that alone never loses a guest that would have fitted. Ties by the cell's number; CPUs by theirs.
    """
    able = [(times, cell) for cell in cells if (times := _times(cell, ask)) > 0]
    if len(able) < ask.nodes or (ask.times > 1 and how_many(cells, ask) < ask.times):
        return None
    sign = 1 if ask.nodes == 1 else -1
    able.sort(key=lambda item: (sign * item[0], sign * len(item[1].cpus), sign * item[1].memory_mib, item[1].id))
    chosen = sorted((cell for _, cell in able[: ask.nodes]), key=lambda cell: cell.id)
    return tuple(
        CellShare(
            cell=cell.id,
            vcpus=ask.node_vcpus,
            memory_mib=ask.node_memory_mib,
            page_kib=ask.page_kib,
            cpus=cell.cpus[: ask.node_vcpus] if ask.pinned else (),
        )
        for cell in chosen
    )


def take(cells: Iterable[Cell], shares: Iterable[CellShare]) -> tuple[Cell, ...]:
    """Return the cells as they are once these shares are taken. Shares of a cell that is gone take nothing."""
    left = {cell.id: cell for cell in cells}
    for share in shares:
        cell = left.get(share.cell)
        if cell is None:
            continue
        pages = share.memory_mib * KIB_PER_MIB // share.page_kib if share.page_kib else 0
        left[share.cell] = replace(
            cell,
            cpus=tuple(cpu for cpu in cell.cpus if cpu not in share.cpus),
            memory_mib=cell.memory_mib - (0 if share.page_kib else share.memory_mib),
            pages=tuple((size, free - pages if size == share.page_kib else free) for size, free in cell.pages),
        )
    return tuple(left.values())


def give(cells: Iterable[Cell], shares: Iterable[CellShare]) -> tuple[Cell, ...]:
    """Return the cells as they are once these shares are given back: what undoes `take`."""
    left = {cell.id: cell for cell in cells}
    for share in shares:
        cell = left.get(share.cell)
        if cell is None:
            continue
        pages = share.memory_mib * KIB_PER_MIB // share.page_kib if share.page_kib else 0
        left[share.cell] = replace(
            cell,
            cpus=tuple(sorted((*cell.cpus, *share.cpus))),
            memory_mib=cell.memory_mib + (0 if share.page_kib else share.memory_mib),
            pages=tuple((size, free + pages if size == share.page_kib else free) for size, free in cell.pages),
        )
    return tuple(left.values())


def how_many(cells: Sequence[Cell], ask: NumaAsk) -> int:
    """Return how many such guests fit, one after another, as `place` places them."""
    times = [_times(cell, ask) for cell in cells]
    low, high = 0, sum(times) // ask.nodes
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(each, middle) for each in times) >= ask.nodes * middle:  # no guest has two nodes in one cell
            low = middle
        else:
            high = middle - 1
    return low


@lru_cache(maxsize=65536)
def shortages(cells: tuple[Cell, ...], ask: NumaAsk) -> tuple[Shortage, ...]:
    """Return what is missing, in the order of MEASURES; empty means that it fits.

    `numa_cells` alone: each thing is there in enough cells, but not together in the same ones, or there are too few cells.
    """
    if place(cells, ask) is not None:
        return ()
    found = [item for measure in MEASURES[:3] if (item := room(cells, ask, measure)) and item.free < item.asked]
    last = room(cells, ask, "numa_cells")
    return tuple(found) if found or last is None else (last,)


def room(cells: Sequence[Cell], ask: NumaAsk, measure: Measure) -> Shortage | None:
    """Return what each node asks of the measure, and what the cells that have most of it have; None where it asks nothing."""
    match measure:
        case "dedicated_cpus" if ask.pinned:
            unit = "CPU in one cell" if ask.nodes == 1 else f"CPU in each of {ask.nodes} cells"
            return Shortage(measure, ask.node_vcpus, _best((len(cell.cpus) for cell in cells), ask), unit)
        case "huge_pages" if ask.page_kib:
            unit = f"pages of {ask.page_kib} KiB in one cell"
            if ask.nodes > 1:
                unit = f"pages of {ask.page_kib} KiB in each of {ask.nodes} cells"
            return Shortage(measure, ask.node_pages, _best((c.free_pages(ask.page_kib) for c in cells), ask), unit)
        case "numa_memory" if not ask.page_kib:
            unit = "MiB in one cell" if ask.nodes == 1 else f"MiB in each of {ask.nodes} cells"
            return Shortage(measure, ask.node_memory_mib, _best((cell.memory_mib for cell in cells), ask), unit)
        case "numa_cells":
            able = sum(_times(cell, ask) > 0 for cell in cells)
            return Shortage(measure, ask.nodes, able, "cells with all of it")
    return None


def _best(amounts: Iterable[int], ask: NumaAsk) -> int:
    """What the n-th best cell has: as much as each of n nodes could have."""
    ordered = sorted(amounts, reverse=True)
    return max(0, ordered[ask.nodes - 1]) if len(ordered) >= ask.nodes else 0


def _times(cell: Cell, ask: NumaAsk) -> int:
    """How many nodes of such guests the cell takes."""
    times = _PLENTY
    if ask.pinned:
        times = len(cell.cpus) // ask.node_vcpus
    elif not cell.shared_cpus:
        return 0
    if ask.page_kib:
        return min(times, cell.free_pages(ask.page_kib) // ask.node_pages)
    return min(times, max(0, cell.memory_mib) // ask.node_memory_mib)
