"""Which processors of its host a guest's threads may use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compute.node.drivers.base import Never
from compute.wire import InstanceSpec, NumaCell


def check_cells(spec: InstanceSpec, cells: Sequence[NumaCell]) -> None:
    """Raise Never("cells_refused") where the guest shall have of a cell what this host does not give away there."""
    known = {cell.id: cell for cell in cells}
    for part in spec.cells:
        cell = known.get(part.cell)
        if cell is None:
            raise Never("cells_refused", f"this host has no NUMA cell {part.cell}")
        if foreign := set(part.cpus) - set(cell.dedicated):
            raise Never(
                "cells_refused", f"CPUs {cpu_list(foreign)} of cell {part.cell} are not this host's to give away"
            )
        if part.page_kib and part.page_kib not in {pages.size_kib for pages in cell.huge_pages}:
            raise Never("cells_refused", f"cell {part.cell} has no pages of {part.page_kib} KiB")


def shared_cpus(spec: InstanceSpec, cells: Sequence[NumaCell]) -> tuple[int, ...]:
    """Return where the threads run that have no CPU to themselves: of the guest's cells, or of the whole slice.

    A guest with CPUs of its own in a cell that shares none runs its other threads anywhere in the slice, and on its own
    CPUs where the slice shares none at all.
    """
    own = {part.cell for part in spec.cells}
    near = [cpu for cell in cells if cell.id in own or not own for cpu in cell.cpus if cpu not in cell.dedicated]
    anywhere = [cpu for cell in cells for cpu in cell.cpus if cpu not in cell.dedicated]
    return tuple(sorted(near or anywhere or {cpu for part in spec.cells for cpu in part.cpus}))


def cpu_list(numbers: Iterable[int]) -> str:
    """Return numbers as the kernel and libvirt write them: `0-2,5`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
