"""Hosts kept column by column, so that one request is ranked over thousands of them in a few array operations.

A snapshot is immutable. `after`, `with_host` and `with_hosts` give a new one that shares what did not change.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from compute.scheduler import topology
from compute.scheduler.model import RESOURCES, HostState, Resource, Resources
from compute.scheduler.topology import NumaAsk

Flags = NDArray[np.bool_]
Counts = NDArray[np.int64]
Shares = NDArray[np.float64]
Column = TypeVar("Column", Counts, Flags, Shares)
Fact = TypeVar("Fact", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Row i of every column speaks of `hosts[i]`. Facts are kept by value: mode -> flags, group -> {row: members}.

    `ids` are sorted; `id_order[i]` is the place of host i among them: the tie-break without comparing strings.
    """

    hosts: tuple[HostState, ...]
    ids: tuple[str, ...]
    row_of: Mapping[str, int]
    id_order: Counts
    capacity: Mapping[Resource, Counts]
    used: Mapping[Resource, Counts]
    admin_states: Mapping[str, Flags]
    observed_states: Mapping[str, Flags]
    load: Shares
    pools: Mapping[str, Flags]
    modes: Mapping[str, Flags]
    traits: Mapping[str, Flags]
    groups: Mapping[str, Mapping[int, int]]
    cpu_models: Mapping[str, Flags]
    cpu_flags: Mapping[str, Flags]
    networks: Mapping[str, Flags]
    storages: Mapping[str, Flags]
    images: Mapping[str, Flags]
    domains: Mapping[str, Flags]

    @classmethod
    def from_hosts(cls, hosts: Iterable[HostState]) -> Snapshot:
        """Turn hosts, in any order, into columns. Raises ValueError when two have the same id."""
        rows = tuple(hosts)
        row_of = {host.id: row for row, host in enumerate(rows)}
        if len(row_of) != len(rows):
            raise ValueError("two hosts of one snapshot have the same id")
        id_order = np.empty(len(rows), dtype=np.int64)
        ids = tuple(sorted(row_of))
        for place, host_id in enumerate(ids):
            id_order[row_of[host_id]] = place
        capacities = [host.inventory.capacity() for host in rows]
        groups: dict[str, dict[int, int]] = {}
        for row, host in enumerate(rows):
            for group, members in host.group_counts.items():
                groups.setdefault(group, {})[row] = members
        return cls(
            hosts=rows,
            ids=ids,
            row_of=row_of,
            id_order=id_order,
            capacity={name: _counts(getattr(capacity, name) for capacity in capacities) for name in RESOURCES},
            used={name: _counts(getattr(host.used, name) for host in rows) for name in RESOURCES},
            admin_states=_states([host.admin_state for host in rows]),
            observed_states=_states([host.observed_state for host in rows]),
            load=np.array([host.load for host in rows], dtype=np.float64),
            pools=_states([host.pool_id for host in rows]),
            modes=_flags([host.modes for host in rows]),
            traits=_flags([host.traits for host in rows]),
            groups=groups,
            cpu_models=_flags([host.cpu_models for host in rows]),
            cpu_flags=_flags([host.cpu_flags for host in rows]),
            networks=_flags([host.networks for host in rows]),
            storages=_flags([host.storages for host in rows]),
            images=_flags([host.images for host in rows]),
            domains=_states([host.failure_domain for host in rows]),
        )

    def __len__(self) -> int:
        return len(self.hosts)

    def after(
        self, host_id: str, resources: Resources, *, group: str | None = None, numa: NumaAsk | None = None
    ) -> Snapshot:
        """Return the snapshot as it is once one instance of this size (and group, and ask of cells) is on the host.

        Raises KeyError for a host that is not in the snapshot.
        """
        host = self.hosts[self.row_of[host_id]]
        counts = dict(host.group_counts)
        if group is not None:
            counts[group] = counts.get(group, 0) + 1
        cells = host.cells if numa is None else topology.take(host.cells, topology.place(host.cells, numa) or ())
        return self.with_host(
            replace(host, used=host.used + resources, instances=host.instances + 1, group_counts=counts, cells=cells)
        )

    def with_host(self, host: HostState) -> Snapshot:
        """Return the snapshot with the host of this id replaced, added at the end if it is new."""
        return self.with_hosts((host,))

    def with_hosts(self, changed: Iterable[HostState]) -> Snapshot:
        """Return the snapshot with the hosts of these ids replaced, new ones added at the end.

        One copy of each column that changes, however many hosts did. Of several with one id the last counts.
        """
        rows = list(self.hosts)
        fresh: dict[str, HostState] = {}
        rows_changed: dict[int, HostState] = {}
        for host in changed:
            row = self.row_of.get(host.id)
            if row is None:
                fresh[host.id] = host
            else:
                rows[row] = rows_changed[row] = host
        hosts = (*rows, *fresh.values())
        if fresh or any(_lasting(self.hosts[row]) != _lasting(host) for row, host in rows_changed.items()):
            return Snapshot.from_hosts(hosts)
        if not rows_changed:
            return self
        capacities = {row: host.inventory.capacity() for row, host in rows_changed.items()}
        admin_states, observed_states, groups = self.admin_states, self.observed_states, self.groups
        for row, host in rows_changed.items():
            before = self.hosts[row]
            admin_states = _moved(admin_states, row, before.admin_state, host.admin_state)
            observed_states = _moved(observed_states, row, before.observed_state, host.observed_state)
            groups = _regrouped(groups, row, before.group_counts, host.group_counts)
        return replace(
            self,
            hosts=hosts,
            capacity={
                name: _patched(self.capacity[name], {row: getattr(each, name) for row, each in capacities.items()})
                for name in RESOURCES
            },
            used={
                name: _patched(self.used[name], {row: getattr(host.used, name) for row, host in rows_changed.items()})
                for name in RESOURCES
            },
            admin_states=admin_states,
            observed_states=observed_states,
            load=_patched(self.load, {row: host.load for row, host in rows_changed.items()}),
            groups=groups,
        )


def _counts(values: Iterable[int]) -> Counts:
    return np.fromiter(values, dtype=np.int64)


def _lasting(host: HostState) -> tuple[object, ...]:
    """What seldom changes: a change of it builds the columns anew."""
    return (
        *(host.pool_id, host.modes, host.traits, host.cpu_models, host.cpu_flags),
        *(host.networks, host.storages, host.images, host.failure_domain),
    )


def _states(values: list[str]) -> dict[str, Flags]:
    return {value: _at(rows, len(values)) for value, rows in _rows_by(values).items()}


def _flags(values: list[frozenset[str]]) -> dict[str, Flags]:
    flags: dict[str, Flags] = {}
    for items, rows in _rows_by(values).items():  # thousands of hosts have few different sets, of a hundred items each
        for item in items:
            if item in flags:
                flags[item][rows] = True
            else:
                flags[item] = _at(rows, len(values))
    return flags


def _rows_by(values: Sequence[Fact]) -> dict[Fact, list[int]]:
    rows: dict[Fact, list[int]] = {}
    for row, value in enumerate(values):
        rows.setdefault(value, []).append(row)
    return rows


def _at(rows: list[int], length: int) -> Flags:
    flags = np.zeros(length, dtype=np.bool_)
    flags[rows] = True
    return flags


def _patched(column: Column, values: Mapping[int, float]) -> Column:
    if all(column[row] == value for row, value in values.items()):
        return column
    changed = column.copy()
    for row, value in values.items():
        changed[row] = value
    return changed


def _moved(states: Mapping[str, Flags], row: int, before: str, now: str) -> Mapping[str, Flags]:
    if before == now:
        return states
    nobody = np.zeros_like(states[before])
    return {
        **states,
        before: _patched(states[before], {row: False}),
        now: _patched(states.get(now, nobody), {row: True}),
    }


def _regrouped(
    groups: Mapping[str, Mapping[int, int]], row: int, before: Mapping[str, int], now: Mapping[str, int]
) -> Mapping[str, Mapping[int, int]]:
    if before == now:
        return groups
    changed = dict(groups)
    for group in before.keys() | now.keys():
        members = {other: count for other, count in changed.get(group, {}).items() if other != row}
        if group in now:
            members[row] = now[group]
        changed[group] = members
    return changed
