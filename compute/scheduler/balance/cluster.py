"""What is where: hosts and guests as arrays. Guests are columns 0..N-1, hosts 0..H-1; -1 stands for "none"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FORMAT: Final = "cluster/1"

# Rows of `Cluster.needs`, `Cluster.totals` and all that is counted per measure.
MEMORY, VCPUS, CORES = 0, 1, 2


class ClusterError(ValueError):
    """The description of a cluster is wrong; the text says where, and what would be right."""


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Hosts, guests, and where the guests are now.

    needs       3 x N: memory in MiB, vCPUs, and CPU load in busy cores (vCPUs x mean share of them in use)
    totals      3 x H: a host's memory in MiB, CPU threads, CPU threads again: what a host's shares are shares of
    reserved    H: memory of the host's own system, MiB
    room        2 x H: memory in MiB and vCPUs that guests may have together; memory is never overcommitted
    group       N: the guest's anti-affinity group, or -1
    host_of     N: the guest's host
    """

    hosts: tuple[str, ...]
    guests: tuple[str, ...]
    needs: Floats
    totals: Floats
    reserved: Floats
    room: Floats
    group: Ints
    host_of: Ints

    @classmethod
    def from_json(cls, data: object) -> Cluster:
        """Read the form `cluster/1`.

        `nodes`: name, vcpus (CPU threads), memory_mib, reserved_mib; `instances`: name, vcpus, memory_mib, node,
        load (0..1), group (or null); `limits`: vcpu_ratio, shared_storage. Raises ClusterError.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ClusterError(f'a cluster is a JSON object with "format": "{FORMAT}"')
        limits = data.get("limits")
        if not isinstance(limits, dict):
            raise ClusterError("limits: an object with vcpu_ratio and shared_storage is expected")
        if limits.get("shared_storage") is not True:
            raise ClusterError("limits.shared_storage: only true can be planned for; a move then copies memory only")
        ratio = _number(limits, "limits", "vcpu_ratio", least=1e-9)
        nodes, instances = _rows(data, "nodes"), _rows(data, "instances")
        hosts, guests = _names(nodes, "nodes"), _names(instances, "instances")
        row_of = {name: row for row, name in enumerate(hosts)}
        group_of: dict[str, int] = {}
        needs, group, host_of = (
            np.zeros((3, len(guests))),
            np.full(len(guests), -1),
            np.zeros(len(guests), dtype=np.int64),
        )
        for column, instance in enumerate(instances):
            where = f"instances[{column}]"
            vcpus = _number(instance, where, "vcpus", least=1)
            load = _number(instance, where, "load", least=0, most=1)
            needs[:, column] = _number(instance, where, "memory_mib", least=1), vcpus, vcpus * load
            node, name = instance.get("node"), instance.get("group")
            if not isinstance(node, str) or node not in row_of:
                _wrong(where, "node", "the name of one of the nodes", node)
            host_of[column] = row_of[node]
            if name is not None:
                if not isinstance(name, str):
                    _wrong(where, "group", "a name or null", name)
                group[column] = group_of.setdefault(name, len(group_of))
        totals, reserved = np.zeros((3, len(hosts))), np.zeros(len(hosts))
        for row, node_row in enumerate(nodes):
            where = f"nodes[{row}]"
            threads = _number(node_row, where, "vcpus", least=1)
            totals[:, row] = _number(node_row, where, "memory_mib", least=1), threads, threads
            reserved[row] = _number(node_row, where, "reserved_mib", least=0)
        room = np.stack([totals[MEMORY] - reserved, np.floor(totals[VCPUS] * ratio + 1e-9)])
        return cls(hosts, guests, needs, totals, reserved, room, group, host_of)


def _rows(data: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    rows = data.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ClusterError(f"{name}: a list of objects is expected")
    if name == "nodes" and not rows:
        raise ClusterError("nodes: at least one is expected")
    return rows


def _names(rows: Sequence[Mapping[str, Any]], what: str) -> tuple[str, ...]:
    seen: dict[str, None] = {}
    for number, row in enumerate(rows):
        name = row.get("name")
        if not isinstance(name, str) or not name:
            _wrong(f"{what}[{number}]", "name", "a text", name)
        if name in seen:
            raise ClusterError(f"{what}[{number}].name: {name!r} is there twice")
        seen[name] = None
    return tuple(seen)


def _number(row: Mapping[str, Any], where: str, name: str, *, least: float, most: float = 1e15) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        _wrong(where, name, f"a number from {least:g}" + (f" to {most:g}" if most < 1e15 else ""), value)
    return float(value)


def _wrong(where: str, name: str, right: str, value: object) -> NoReturn:
    raise ClusterError(f"{where}.{name}: {right} is expected, not {value!r}")
