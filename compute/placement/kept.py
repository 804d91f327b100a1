"""The hosts as this process keeps them: columns in memory, brought up to date before each look. See docs/adr/0012.

A trigger writes into each host row that changes the id of the changing transaction (`Host.changed_in`). Every look reads
the rows whose `changed_in` is not below the horizon: the oldest transaction that still ran at the look before. What had
ended by then was seen then; what ends later has an id at or above the horizon. So no commit is missed, in whatever order
transactions end, and a look costs what has changed, not what there is.

What a look finds is as true as a full read at the same moment, and as soon out of date: `claims` asks again under lock.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from compute.placement.loader import HOST_COLUMNS, HOST_TABLES, host_from_row
from compute.scheduler.model import HostState
from compute.scheduler.snapshot import Snapshot
from tenants import prepared

# One row at least, for the frame. A table that was emptied or written anew by TRUNCATE has another file.
_LOOK: Final = "".join(
    (
        "SELECT now.file, now.horizon, now.own, found.* FROM (SELECT",
        " pg_relation_filenode('compute_host')::bigint AS file,",
        " pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon,",
        " pg_current_xact_id_if_assigned()::text::bigint AS own",
        ") AS now LEFT JOIN LATERAL (SELECT h.changed_in, ",
        HOST_COLUMNS,
        " FROM ",
        HOST_TABLES,
        " WHERE h.changed_in >= %s) AS found ON true",
    )
)
_FRAME: Final = 3  # file, horizon, own; then changed_in and the host's columns


@dataclass(slots=True)
class KeptHosts:
    """The hosts of one database, by pool. Safe for threads: looks of one process come one after another."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _file: int = 0
    _horizon: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    """host id -> the transaction whose work is kept"""
    _pool_of: dict[str, str] = field(default_factory=dict)
    _pools: dict[str, Snapshot] = field(default_factory=dict)

    def look(self, pool_id: uuid.UUID | None) -> Snapshot:
        """Return the hosts of a pool, or of all, without the removed: as committed now and as the caller's transaction sees them."""
        with self._lock:
            rows = self._read()
            file, horizon, own = rows[0][:_FRAME]
            if file != self._file or horizon < self._horizon:
                # Another table, or a transaction that reads the past: nothing kept is worth anything to it.
                self._forget()
                rows = self._read()
                file, horizon, own = rows[0][:_FRAME]
            changed = [row for row in rows if row[_FRAME] is not None and self._seen.get(str(row[4])) != row[_FRAME]]
            if own is not None and any(row[_FRAME] == own for row in changed):
                # The caller's own uncommitted work: true for the caller alone, and perhaps never for anybody else.
                pools = _applied(self._pools, dict(self._pool_of), changed)
                return _of_pool(pools, pool_id)
            if changed:
                self._pools = _applied(self._pools, self._pool_of, changed)
                self._seen.update((str(row[4]), row[_FRAME]) for row in changed)
            self._file, self._horizon = file, horizon
            return _of_pool(self._pools, pool_id)

    def _forget(self) -> None:
        self._file, self._horizon = 0, 0
        self._seen, self._pool_of, self._pools = {}, {}, {}

    def _read(self) -> list[Any]:
        return prepared.run(_LOOK, [self._horizon])


_NO_HOSTS: Final = Snapshot.from_hosts(())


def _of_pool(pools: Mapping[str, Snapshot], pool_id: uuid.UUID | None) -> Snapshot:
    if pool_id is None:
        return next(iter(pools.values())) if len(pools) == 1 else Snapshot.from_hosts(_hosts_of(pools))
    return pools.get(str(pool_id), _NO_HOSTS)


def _hosts_of(pools: Mapping[str, Snapshot]) -> Iterator[HostState]:
    for pool in pools.values():
        yield from pool.hosts


def _applied(
    pools: dict[str, Snapshot], pool_of: dict[str, str], changed: Iterable[Sequence[Any]]
) -> dict[str, Snapshot]:
    """Return the pools with the changed hosts in the place of what was known of them; bring `pool_of` up to date."""
    present: dict[str, list[HostState]] = {}
    gone: dict[str, set[str]] = {}
    for row in changed:
        host = host_from_row(row[_FRAME + 1 :])
        before = pool_of.pop(host.id, None)
        removed = host.admin_state == "removed"
        if before is not None and (removed or before != host.pool_id):
            gone.setdefault(before, set()).add(host.id)
        if not removed:
            pool_of[host.id] = host.pool_id
            present.setdefault(host.pool_id, []).append(host)
    pools = dict(pools)
    for pool_id in present.keys() | gone.keys():
        snapshot = pools.get(pool_id, _NO_HOSTS)
        if pool_id in gone:
            snapshot = Snapshot.from_hosts(host for host in snapshot.hosts if host.id not in gone[pool_id])
        pools[pool_id] = snapshot.with_hosts(present.get(pool_id, ()))
    return pools


KEPT: Final = KeptHosts()
"""Those of this process."""
