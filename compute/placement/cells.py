"""What guests have of hosts' NUMA cells, as rows: written with their allocations, gone with them.

`Allocation.cells` says who has what, `PinnedCpu` that no CPU has two owners, and `Host.numa_used` is their sum by cell,
from which the scheduler sees what is left. All three are written under the host row's lock.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from compute.models import Allocation, Host, PinnedCpu
from compute.scheduler.topology import KIB_PER_MIB, Cell, CellShare


def cells_text(shares: Iterable[CellShare]) -> str:
    """Return shares as the text of `Allocation.cells`."""
    return json.dumps([dataclasses.asdict(share) for share in shares])


def read_cells(data: Iterable[Mapping[str, Any]]) -> tuple[CellShare, ...]:
    """Read `Allocation.cells`."""
    return tuple(CellShare(**{**share, "cpus": tuple(share["cpus"])}) for share in data)


def pin(*, host_id: uuid.UUID, shares: Mapping[uuid.UUID, Sequence[CellShare]]) -> None:
    """Write which CPUs the allocations (allocation id -> its shares) have to themselves, and the host's new sums.

    Raises IntegrityError where one of them has an owner: with the host's row locked that is a defect, never a race.
    """
    PinnedCpu.objects.bulk_create(
        PinnedCpu(host_id=host_id, allocation_id=allocation, cpu=cpu)
        for allocation, parts in shares.items()
        for part in parts
        for cpu in part.cpus
    )
    count_cells(host_id)


def count_cells(host_id: uuid.UUID) -> None:
    """Write what all allocations of a host, whose row is locked, have of each of its cells."""
    sums: dict[int, dict[str, Any]] = {}
    for data in Allocation.objects.filter(host_id=host_id, cells__isnull=False).values_list("cells", flat=True):
        for share in read_cells(data or ()):
            total = sums.setdefault(share.cell, {"cell": share.cell, "cpus": [], "memory_mib": 0, "pages": {}})
            total["cpus"] = sorted([*total["cpus"], *share.cpus])
            if share.page_kib:
                pages = total["pages"]
                size = str(share.page_kib)
                pages[size] = pages.get(size, 0) + share.memory_mib * KIB_PER_MIB // share.page_kib
            else:
                total["memory_mib"] += share.memory_mib
    Host.objects.filter(id=host_id).update(numa_used=[sums[cell] for cell in sorted(sums)])


@lru_cache(maxsize=16384)
def free_cells(facts: str, used: str) -> tuple[Cell, ...]:
    """Return a host's cells with what is free in them, from the JSON texts of `Host.facts` and `Host.numa_used`."""
    taken = {total["cell"]: total for total in json.loads(used)}
    cells = []
    for told in json.loads(facts).get("numa", ()):
        gone = taken.get(told["id"], {"cpus": (), "memory_mib": 0, "pages": {}})
        own = told.get("dedicated", ())
        huge_mib = sum(pages["size_kib"] * pages["total"] for pages in told["huge_pages"]) // KIB_PER_MIB
        cells.append(
            Cell(
                id=told["id"],
                cpus=tuple(cpu for cpu in own if cpu not in gone["cpus"]),
                shared_cpus=len(set(told["cpus"]) - set(own)),
                memory_mib=told["memory_mib"] - huge_mib - gone["memory_mib"],
                pages=tuple(
                    (pages["size_kib"], pages["total"] - gone["pages"].get(str(pages["size_kib"]), 0))
                    for pages in told["huge_pages"]
                ),
            )
        )
    return tuple(cells)
