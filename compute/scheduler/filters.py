"""Filters: each says which hosts cannot take a request. Order matters only for which of several reasons is told first.

Every filter exists twice, for one host and for a snapshot's columns; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from compute.scheduler.capacity import fits, room
from compute.scheduler.model import MODES_OF_KIND, NOT_SAID, HostState, Refusal, Request, Resource
from compute.scheduler.snapshot import Flags, Snapshot
from compute.scheduler.topology import MEASURES, Measure, Shortage, shortages


@dataclass(frozen=True, slots=True)
class Filter:
    """`refuses` and `refuses_rows` are True where a host cannot take the request; `seen` tells what was in the way.

    `refuses_rows` may return None for "refuses nobody". `resource` is set for capacity filters, `measure` for those
    that look into NUMA cells.
    """

    name: str
    refuses: Callable[[HostState, Request], bool]
    refuses_rows: Callable[[Snapshot, Request], Flags | None]
    seen: Callable[[HostState, Request], str]
    resource: Resource | None = None
    measure: Measure | None = None


def _nobody(snapshot: Snapshot) -> Flags:
    return np.zeros(len(snapshot), dtype=np.bool_)


def _pool_rows(snapshot: Snapshot, request: Request) -> Flags | None:
    if request.pool_id is None:
        return None
    return ~snapshot.pools.get(request.pool_id, _nobody(snapshot))


def _target_rows(snapshot: Snapshot, request: Request) -> Flags | None:
    if request.target_host is None:
        return None
    refused = ~_nobody(snapshot)
    row = snapshot.row_of.get(request.target_host)
    if row is not None:
        refused[row] = False
    return refused


def _named_rows(snapshot: Snapshot, host_ids: frozenset[str]) -> Flags | None:
    rows = [snapshot.row_of[host_id] for host_id in host_ids if host_id in snapshot.row_of]
    if not rows:
        return None
    refused = _nobody(snapshot)
    refused[rows] = True
    return refused


def _wanted_modes(request: Request) -> frozenset[str]:
    return frozenset({request.virt_mode}) if request.virt_mode else frozenset(MODES_OF_KIND[request.kind])


def _mode(host: HostState, request: Request) -> bool:
    return _wanted_modes(request).isdisjoint(host.modes & MODES_OF_KIND[request.kind])


def _mode_rows(snapshot: Snapshot, request: Request) -> Flags:
    able = _nobody(snapshot)
    for mode in _wanted_modes(request) & MODES_OF_KIND[request.kind]:
        if mode in snapshot.modes:
            able |= snapshot.modes[mode]
    return ~able


def _traits(host: HostState, request: Request) -> bool:
    return not request.required_traits <= host.traits or not request.forbidden_traits.isdisjoint(host.traits)


def _traits_rows(snapshot: Snapshot, request: Request) -> Flags | None:
    if not request.required_traits and not request.forbidden_traits:
        return None
    refused = _nobody(snapshot)
    for trait in request.required_traits:
        refused |= ~snapshot.traits.get(trait, _nobody(snapshot))
    for trait in request.forbidden_traits:
        if trait in snapshot.traits:
            refused |= snapshot.traits[trait]
    return refused


def _traits_seen(host: HostState, request: Request) -> str:
    missing = [f"lacks {trait}" for trait in sorted(request.required_traits - host.traits)]
    present = [f"has {trait}" for trait in sorted(request.forbidden_traits & host.traits)]
    return ", ".join(missing + present)


def _cpu_model_rows(snapshot: Snapshot, request: Request) -> Flags | None:
    if not request.cpu_models:
        return None
    able = _nobody(snapshot)
    for model in request.cpu_models:
        if model in snapshot.cpu_models:
            able |= snapshot.cpu_models[model]
    return ~able


def _lacking_rows(columns: Mapping[str, Flags], wanted: frozenset[str], snapshot: Snapshot) -> Flags | None:
    """Rows that have not all that is wanted."""
    if not wanted:
        return None
    refused = _nobody(snapshot)
    for item in wanted:
        refused |= ~columns.get(item, _nobody(snapshot))
    return refused


def _beyond_reach(host: HostState, request: Request, wanted: frozenset[str], there: frozenset[str]) -> bool:
    """Networks and storages are a pool's: hosts of another one have nothing to do with these."""
    return request.pool_id in (None, host.pool_id) and NOT_SAID not in there and not wanted <= there


def _beyond_reach_rows(
    snapshot: Snapshot, request: Request, wanted: frozenset[str], columns: Mapping[str, Flags]
) -> Flags | None:
    refused = _lacking_rows(columns, wanted, snapshot)
    if refused is None:
        return None
    if NOT_SAID in columns:
        refused &= ~columns[NOT_SAID]
    if request.pool_id is not None:
        refused &= snapshot.pools.get(request.pool_id, _nobody(snapshot))
    return refused


def _lacking_seen(wanted: frozenset[str], there: frozenset[str]) -> str:
    return ", ".join(f"lacks {item}" for item in sorted(wanted - there))


def _apart(host: HostState, request: Request) -> bool:
    if request.group is None or request.group_rule != "anti_affinity":
        return False
    return host.group_counts.get(request.group, 0) > 0


def _apart_rows(snapshot: Snapshot, request: Request) -> Flags | None:
    if request.group is None or request.group_rule != "anti_affinity":
        return None
    rows = [row for row, members in snapshot.groups.get(request.group, {}).items() if members > 0]
    refused = _nobody(snapshot)
    refused[rows] = True
    return refused


def _together(host: HostState, request: Request) -> bool:
    if request.group is None or request.group_rule != "affinity" or not request.group_started:
        return False
    return host.group_counts.get(request.group, 0) <= 0


def _together_rows(snapshot: Snapshot, request: Request) -> Flags | None:
    if request.group is None or request.group_rule != "affinity" or not request.group_started:
        return None
    rows = [row for row, members in snapshot.groups.get(request.group, {}).items() if members > 0]
    refused = ~_nobody(snapshot)
    refused[rows] = False
    return refused


def _domain(host: HostState, request: Request) -> bool:
    if request.group is None or request.domain_limit is None:
        return False
    return not host.failure_domain or request.domain_members.get(host.failure_domain, 0) >= request.domain_limit


def _domain_rows(snapshot: Snapshot, request: Request) -> Flags | None:
    if request.group is None or request.domain_limit is None:
        return None
    if request.domain_limit <= 0:
        return ~_nobody(snapshot)
    refused = snapshot.domains.get("", _nobody(snapshot)).copy()
    for domain, members in request.domain_members.items():
        if domain in snapshot.domains and members >= request.domain_limit:
            refused |= snapshot.domains[domain]
    return refused


def _domain_seen(host: HostState, request: Request) -> str:
    if not host.failure_domain:
        return "has none"
    return f"{host.failure_domain} has {request.domain_members.get(host.failure_domain, 0)}"


def _lacks(resource: Resource, host: HostState, request: Request) -> bool:
    return any(lack.resource == resource for lack in fits(host.inventory, host.used, request.resources))


def _lacks_rows(resource: Resource, snapshot: Snapshot, request: Request) -> Flags | None:
    asked: int = getattr(request.resources, resource)
    if asked <= 0:
        return None
    rows: Flags = room(snapshot.capacity[resource], snapshot.used[resource]) < asked
    return rows


def _capacity_filter(name: str, resource: Resource) -> Filter:
    return Filter(name, partial(_lacks, resource), partial(_lacks_rows, resource), lambda _h, _r: "", resource)


def shortage(host: HostState, request: Request, measure: Measure) -> Shortage | None:
    """Return what the host's cells lack of one measure, None where they have it or it is not asked for."""
    if request.numa is None:
        return None
    return next((item for item in shortages(host.cells, request.numa) if item.measure == measure), None)


def _short_rows(measure: Measure, snapshot: Snapshot, request: Request) -> Flags | None:
    if request.numa is None:
        return None
    lacking = (shortage(host, request, measure) is not None for host in snapshot.hosts)
    return np.fromiter(lacking, dtype=np.bool_, count=len(snapshot))


def _numa_filter(measure: Measure) -> Filter:
    return Filter(
        measure,
        lambda host, request: shortage(host, request, measure) is not None,
        partial(_short_rows, measure),
        lambda _h, _r: "",
        measure=measure,
    )


FILTERS: Final[tuple[Filter, ...]] = (
    Filter(
        "pool",
        lambda host, request: request.pool_id is not None and host.pool_id != request.pool_id,
        _pool_rows,
        lambda host, _: host.pool_id,
    ),
    Filter(
        "target_host",
        lambda host, request: request.target_host is not None and host.id != request.target_host,
        _target_rows,
        lambda _h, _r: "",
    ),
    Filter(
        "forbidden",
        lambda host, request: host.id in request.forbidden_hosts,
        lambda snapshot, request: _named_rows(snapshot, request.forbidden_hosts),
        lambda _h, _r: "",
    ),
    Filter(
        "admin_state",
        lambda host, _: host.admin_state != "enabled",
        lambda snapshot, _: ~snapshot.admin_states.get("enabled", _nobody(snapshot)),
        lambda host, _: host.admin_state,
    ),
    Filter(
        "observed_state",
        lambda host, _: host.observed_state != "up",
        lambda snapshot, _: ~snapshot.observed_states.get("up", _nobody(snapshot)),
        lambda host, _: host.observed_state,
    ),
    Filter("virt_mode", _mode, _mode_rows, lambda host, _: ", ".join(sorted(host.modes))),
    Filter(
        "cpu_model",
        lambda host, request: bool(request.cpu_models) and request.cpu_models.isdisjoint(host.cpu_models),
        _cpu_model_rows,
        lambda host, request: f"offers none of {', '.join(sorted(request.cpu_models))}",
    ),
    Filter(
        "cpu_flags",
        lambda host, request: not request.cpu_flags <= host.cpu_flags,
        lambda snapshot, request: _lacking_rows(snapshot.cpu_flags, request.cpu_flags, snapshot),
        lambda host, request: _lacking_seen(request.cpu_flags, host.cpu_flags),
    ),
    Filter("traits", _traits, _traits_rows, _traits_seen),
    Filter(
        "network",
        lambda host, request: _beyond_reach(host, request, request.networks, host.networks),
        lambda snapshot, request: _beyond_reach_rows(snapshot, request, request.networks, snapshot.networks),
        lambda host, request: _lacking_seen(request.networks, host.networks),
    ),
    Filter(
        "storage",
        lambda host, request: _beyond_reach(host, request, request.storages, host.storages),
        lambda snapshot, request: _beyond_reach_rows(snapshot, request, request.storages, snapshot.storages),
        lambda host, request: _lacking_seen(request.storages, host.storages),
    ),
    Filter(
        "anti_affinity",
        _apart,
        _apart_rows,
        lambda host, request: str(host.group_counts.get(request.group or "", 0)),
    ),
    Filter("affinity", _together, _together_rows, lambda _h, _r: ""),
    Filter("failure_domain", _domain, _domain_rows, _domain_seen),
    _capacity_filter("capacity_vcpus", "vcpus"),
    _capacity_filter("capacity_memory", "memory_mib"),
    _capacity_filter("capacity_disk", "disk_gib"),
    *(_numa_filter(measure) for measure in MEASURES),
    Filter(
        "host_loss",
        lambda host, request: host.id in request.exposed_hosts,
        lambda snapshot, request: _named_rows(snapshot, request.exposed_hosts),
        lambda _h, _r: "",
    ),
)


def failing(host: HostState, request: Request) -> int:
    """Return the filters that refuse the host as bits: bit k stands for FILTERS[k]; 0 means that it is a candidate."""
    return sum(1 << bit for bit, item in enumerate(FILTERS) if item.refuses(host, request))


def failing_rows(snapshot: Snapshot, request: Request) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return `failing` for every row of a snapshot."""
    bits = np.zeros(len(snapshot), dtype=np.int64)
    for bit, item in enumerate(FILTERS):
        refused = item.refuses_rows(snapshot, request)
        if refused is not None:
            bits |= refused.astype(np.int64) << bit
    return bits


def refusal(host: HostState, request: Request, bits: int) -> Refusal:
    """Put the failing filters of one host (`bits` above 0) into words and numbers."""
    refusing = [item for bit, item in enumerate(FILTERS) if bits >> bit & 1]
    first, also = refusing[0], tuple(item.name for item in refusing[1:])
    if first.measure is not None and (short := shortage(host, request, first.measure)) is not None:
        margin = short.free - short.asked
        return Refusal(host.id, first.name, short.asked, short.free, margin, short.unit, also=also, host_name=host.name)
    if first.resource is None:
        return Refusal(host.id, first.name, seen=first.seen(host, request), also=also, host_name=host.name)
    lack = next(lack for lack in fits(host.inventory, host.used, request.resources) if lack.resource == first.resource)
    return Refusal(host.id, first.name, lack.asked, lack.free, lack.margin, lack.unit, also=also, host_name=host.name)
