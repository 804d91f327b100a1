"""Building blocks for libvirt XML. A domain is only ever built from elements; no text is pasted into markup.

`check_allowed` is the second wall: whatever the builders do, a domain with an element, a file or a device that is not
on the list never reaches libvirt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath, PurePosixPath

from lxml import etree

from compute.node.drivers.base import Never
from compute.node.drivers.cpus import cpu_list
from compute.node.drivers.libvirt.metadata import NAMESPACE
from compute.node.drivers.libvirt.xml_text import clean
from compute.wire import InstanceSpec

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
_NAME_MAX = 32
_FILE_ATTRIBUTES = frozenset({"file", "dir", "path", "socket"})
_PATH_TEXT = frozenset({"kernel", "initrd"})


def node(parent: etree._Element, tag: str, text: str | None = None, **attributes: str | int) -> etree._Element:
    """Append a child. Characters that XML cannot hold become U+FFFD. `type_` stands for the attribute `type`."""
    child = etree.SubElement(parent, tag)
    if text is not None:
        child.text = clean(text)
    for name, value in attributes.items():
        child.set(name.rstrip("_"), clean(str(value)))
    return child


def domain_name(spec: InstanceSpec) -> str:
    """Return the domain's name: for people, so it carries the instance's; unique by the random end of its id.

    The id's beginning is its time of birth: two instances of one minute share it.
    """
    readable = _NOT_IN_A_NAME.sub("-", spec.name).strip("-.")[:_NAME_MAX].strip("-.")
    return "-".join(part for part in ("cenote", spec.id[-12:], readable) if part)


def add_partition(domain: etree._Element, partition: str | None) -> None:
    """Append where among the control groups the guest runs; libvirt's own place where that is None."""
    if partition is not None:
        node(node(domain, "resource"), "partition", partition)


def add_memory_cells(domain: etree._Element, spec: InstanceSpec) -> None:
    """Append of which NUMA cells of the host the memory is: of these and of no others, even where that ends the guest."""
    if spec.cells:
        tune = node(domain, "numatune")
        node(tune, "memory", mode="strict", nodeset=cpu_list(part.cell for part in spec.cells))
        if len(spec.cells) > 1:
            for number, part in enumerate(spec.cells):
                node(tune, "memnode", cellid=number, mode="strict", nodeset=part.cell)


def check_allowed(
    domain: etree._Element, allowed: frozenset[str], *, directories: Iterable[PurePath], files: Iterable[str] = ()
) -> None:
    """Raise Never("definition_refused") unless all of `domain` is on the list.

    `allowed` holds paths of element names below the domain ("devices/disk/source"). Every path of the host's file
    system lies below one of `directories` or is one of `files`.
    """
    roots, single = tuple(directories), frozenset(files)
    metadata = etree.QName(NAMESPACE, "instance").text
    for element in domain.iterdescendants():
        if not isinstance(element.tag, str):
            raise Never("definition_refused", "a comment or processing instruction in a domain")
        names = [element.tag, *(above.tag for above in element.iterancestors())][:-1]
        path = "/".join(str(name) for name in reversed(names))
        if path not in allowed and path != f"metadata/{metadata}":
            raise Never("definition_refused", f"element {path} is not allowed in a domain")
        places = [str(element.get(name)) for name in _FILE_ATTRIBUTES if element.get(name)]
        if element.tag in _PATH_TEXT:
            places.append(element.text or "")
        if element.tag == "target":
            places = []  # a path inside the guest
        for place in places:
            pure = PurePosixPath(place)
            inside = any(pure.is_relative_to(root) for root in roots) and ".." not in pure.parts
            if not inside and place not in single:
                raise Never("definition_refused", f"{path} names {place}, which is outside of storage")


def to_text(domain: etree._Element) -> str:
    """Return the XML that libvirt gets."""
    return str(etree.tostring(domain, encoding="unicode"))
