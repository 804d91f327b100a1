"""What libvirt says of the machine, read from its XML: processors that VMs can be given, NUMA cells, huge pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lxml import etree

from compute.node.drivers.libvirt.metadata import PARSER
from compute.wire import HugePages, NumaCell

SMALL_PAGE_KIB = 4


def usable_models(domain_capabilities: str) -> tuple[str, ...]:
    """Return the named processor models that a VM can be given, in order of name."""
    found = etree.fromstring(domain_capabilities.encode(), PARSER).iterfind("cpu/mode[@name='custom']/model")
    return tuple(sorted(model.text for model in found if model.text and model.get("usable") in ("yes", "unknown")))


def best_processor(domain_capabilities: str) -> str | None:
    """Return, as XML, the processor with the most flags that a VM can be given; None where libvirt names none."""
    mode = etree.fromstring(domain_capabilities.encode(), PARSER).find("cpu/mode[@name='host-model']")
    if mode is None or mode.get("supported") != "yes":
        return None
    processor = etree.Element("cpu")
    processor.extend(list(mode))
    return str(etree.tostring(processor, encoding="unicode"))


def flags_of(processor: str) -> tuple[str, ...]:
    """Return the flags that an expanded processor has, in order of name."""
    found = etree.fromstring(processor.encode(), PARSER).iterfind("feature")
    return tuple(sorted(flag.get("name", "") for flag in found if flag.get("policy") != "disable"))


def numa_cells(
    capabilities: str,
    free_pages: Mapping[tuple[int, int], int],
    *,
    cpus: Collection[int] = (),
    dedicated: Collection[int] = (),
) -> tuple[NumaCell, ...]:
    """Return the machine's NUMA cells. `free_pages`: (cell, page size in KiB) -> pages that nobody uses.

    `cpus`: those of the slice, () for all; `dedicated`: those of them that are kept for guests with CPUs of their own.
    A cell without memory of its own is left out: nothing can be placed there.
    """
    cells = []
    for cell in etree.fromstring(capabilities.encode(), PARSER).iterfind("host/topology/cells/cell"):
        number, memory = int(cell.get("id", "0")), cell.findtext("memory")
        if memory is None:
            continue
        there = {int(cpu.get("id", "0")) for cpu in cell.iterfind("cpus/cpu")}
        there = there & set(cpus) if cpus else there
        pages = {int(item.get("size", "0")): int(item.text or "0") for item in cell.iterfind("pages")}
        cells.append(
            NumaCell(
                id=number,
                cpus=tuple(sorted(there)),
                dedicated=tuple(sorted(there & set(dedicated))),
                memory_mib=int(memory) // 1024,
                huge_pages=tuple(
                    HugePages(size, total, free_pages.get((number, size), 0))
                    for size, total in sorted(pages.items())
                    if size > SMALL_PAGE_KIB and total > 0
                ),
            )
        )
    return tuple(sorted(cells, key=lambda cell: cell.id))


def huge_sizes(capabilities: str) -> tuple[int, ...]:
    """Return the sizes of huge pages that the machine has any of, in KiB."""
    found = etree.fromstring(capabilities.encode(), PARSER).iterfind("host/topology/cells/cell/pages")
    sizes = {int(item.get("size", "0")) for item in found if int(item.text or "0") > 0}
    return tuple(sorted(sizes - {SMALL_PAGE_KIB}))
