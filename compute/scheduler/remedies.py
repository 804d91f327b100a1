"""What would make a refused request fit: the smallest changes to the request, each one proved by ranking it again.

A remedy never names a host: it may be shown to the tenant who was refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from compute.scheduler.capacity import room
from compute.scheduler.filters import FILTERS, failing_rows
from compute.scheduler.model import RESOURCES, UNITS, GroupRule, HostState, Policy, Request, Resource, Resources
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Counts, Flags, Snapshot
from compute.scheduler.topology import how_many as cells_hold

ChangeKind = Literal[
    "less",
    "fewer",
    "pool",
    "without_traits",
    "any_host",
    "any_mode",
    "any_cpu_model",
    "without_flags",
    "soft_group",
    "any_domain",
]

_BIT: Final[Mapping[str, int]] = {item.name: 1 << place for place, item in enumerate(FILTERS)}
_FILTER_OF: Final[Mapping[Resource, str]] = {item.resource: item.name for item in FILTERS if item.resource}
# A filter that is not named here is nothing that its requester can change.
_HEALABLE: Final = sum(
    _BIT[name]
    for name in (
        *("pool", "target_host", "virt_mode", "cpu_model", "cpu_flags", "traits"),
        *("anti_affinity", "affinity", "failure_domain", *_FILTER_OF.values()),
    )
)
_ROOM: Final = sum(_BIT[name] for name in _FILTER_OF.values())
# More than anyone asks for, and small enough for sums of it to stay exact.
_PLENTY: Final = 2**31
_WORDS: Final[Mapping[Resource, str]] = {"vcpus": "vCPU", "memory_mib": "MiB of memory", "disk_gib": "GiB of disk"}


@dataclass(frozen=True, slots=True)
class Change:
    """One change to a request. `less`: `resource` from `asked` down to `to` (its unit in `unit`); `fewer`: instances.

    `pool`: to the pool with the id `pool`; `without_traits`: drop these `traits`; `any_host`, `any_mode`: leave host or
    virtualization mode open; `any_cpu_model`; `without_flags`: drop these CPU `flags`; `soft_group`: follow the group's
    rule where possible instead of always; `any_domain`: drop its limit for each failure domain.
    """

    kind: ChangeKind
    resource: str = ""
    asked: int | None = None
    to: int | None = None
    unit: str = ""
    pool: str = ""
    traits: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes that together make the request fit; none of them can be left out. `sentence` says them to a person."""

    changes: tuple[Change, ...]
    sentence: str


def remedies(
    hosts: Sequence[HostState] | Snapshot,
    request: Request,
    policy: Policy,
    *,
    count: int = 1,
    pool_names: Mapping[str, str] | None = None,
) -> tuple[Remedy, ...]:
    """Return the smallest changes, fewest first, with which `count` such requests fit; () when they fit as they are.

    Other pools are offered only as far as `hosts` includes theirs. For one request sets of several changes are found
    too; for a batch, single changes.
    """
    snapshot = hosts if isinstance(hosts, Snapshot) else Snapshot.from_hosts(hosts)
    if how_many(snapshot, request) >= count:
        return ()
    found = _for_one(snapshot, request) if count == 1 else _for_batch(snapshot, request, count)
    names = pool_names or {}
    offered = []
    for changes in found:
        changed, wanted = apply(request, changes, count)
        # The proof: the very ranking that a new request with these changes would meet.
        if rank(snapshot, changed, policy).candidates and how_many(snapshot, changed) >= wanted:
            offered.append(Remedy(changes, joined([words(change, names) for change in changes])))
    return tuple(offered)


def apply(request: Request, changes: Sequence[Change], count: int = 1) -> tuple[Request, int]:
    """Return the request and the number of instances as they are with the changes made."""
    for change in changes:
        match change.kind:
            case "less":
                amounts = {"vcpus": request.resources.vcpus, "memory_mib": request.resources.memory_mib}
                amounts |= {"disk_gib": request.resources.disk_gib, change.resource: change.to or 0}
                request = replace(request, resources=Resources(**amounts))
            case "fewer":
                count = change.to or 0
            case "pool":
                # Networks and storages are those of the pool that was asked for; the caller knows those of the other.
                request = replace(request, pool_id=change.pool, networks=frozenset(), storages=frozenset())
            case "without_traits":
                dropped = frozenset(change.traits)
                request = replace(
                    request,
                    required_traits=request.required_traits - dropped,
                    forbidden_traits=request.forbidden_traits - dropped,
                )
            case "any_host":
                request = replace(request, target_host=None)
            case "any_mode":
                request = replace(request, virt_mode=None)
            case "soft_group":
                soft: GroupRule = "soft_affinity" if request.group_rule == "affinity" else "soft_anti_affinity"
                request = replace(request, group_rule=soft)
            case "any_cpu_model":
                request = replace(request, cpu_models=frozenset())
            case "without_flags":
                request = replace(request, cpu_flags=request.cpu_flags - frozenset(change.flags))
            case "any_domain":
                request = replace(request, domain_limit=None)
    return request, count


def hosts_short_of_room(snapshot: Snapshot, request: Request, *, most: int) -> list[str]:
    """Return the ids of hosts that refuse for want of room and nothing else, those that lack the smallest part first."""
    bits = failing_rows(snapshot, request)
    rows: Counts = np.flatnonzero((bits != 0) & (bits & ~_ROOM == 0))
    missing = np.zeros(len(rows), dtype=np.float64)
    for resource in RESOURCES:
        asked: int = getattr(request.resources, resource)
        if asked > 0:
            free = room(snapshot.capacity[resource], snapshot.used[resource])[rows]
            missing += np.maximum(0, asked - free) / asked
    order = np.lexsort((snapshot.id_order[rows], missing))[:most]
    return [snapshot.hosts[row].id for row in rows[order]]


def how_many(hosts: Sequence[HostState] | Snapshot, request: Request) -> int:
    """Return how many requests like this fit, one after another, whatever order the hosts are chosen in.

    Equal requests take equal room, so each host's number stands on its own, a failure domain takes the smaller of its
    limit and its hosts' sum, and nothing depends on choices. Of a group that must share a host, the roomiest counts.
    Of a request that asks for nothing any number fits where one does: the answer is `sys.maxsize`.
    """
    snapshot = hosts if isinstance(hosts, Snapshot) else Snapshot.from_hosts(hosts)
    rows: Counts = np.flatnonzero(failing_rows(snapshot, request) == 0)
    times = np.full(len(rows), _PLENTY, dtype=np.int64)
    for resource in RESOURCES:
        amount: int = getattr(request.resources, resource)
        if amount > 0:
            times = np.minimum(times, room(snapshot.capacity[resource], snapshot.used[resource])[rows] // amount)
    if request.numa is not None:
        held = [cells_hold(snapshot.hosts[row].cells, request.numa) for row in rows.tolist()]
        times = np.minimum(times, np.array(held, dtype=np.int64))
    rule = request.group_rule if request.group is not None else ""
    if rule == "anti_affinity":
        times = np.minimum(times, 1)
    if rule and request.domain_limit is not None:
        fit = _by_domain(snapshot, request, request.domain_limit, rows, times)
    elif rule == "affinity" and not request.group_started:
        fit = int(times.max(initial=0))
    else:
        fit = int(times.sum())
    return sys.maxsize if fit >= _PLENTY else fit


def _by_domain(snapshot: Snapshot, request: Request, limit: int, rows: Counts, times: Counts) -> int:
    """How many fit when each failure domain takes no more than what is left of its limit."""
    fits_in: dict[str, int] = {}
    starts = request.group_rule == "affinity" and not request.group_started
    for row, most in zip(rows.tolist(), times.tolist(), strict=True):
        domain = snapshot.hosts[row].failure_domain
        left = limit - request.domain_members.get(domain, 0)
        before = fits_in.get(domain, 0)
        fits_in[domain] = min(left, max(before, most) if starts else before + most)
    return max(fits_in.values(), default=0) if starts else sum(fits_in.values())


def _for_one(snapshot: Snapshot, request: Request) -> list[tuple[Change, ...]]:
    """Look at what each host fails, as sets of filters; offer the sets that contain no other, at their best host.

    A part of an offered set cannot do: it would have to heal a host that fails only that part, and then that smaller
    set would have been offered instead.
    """
    bits = failing_rows(snapshot, request)
    healable = _healable(snapshot, request, bits)
    sets = np.unique(bits[healable]).tolist()
    smallest = [one for one in sets if not any(other != one and other & one == other for other in sets)]
    found: list[tuple[tuple[int, int, float, float, int, int], tuple[Change, ...]]] = []
    for one in sorted(smallest, key=lambda value: (value.bit_count(), value)):
        rows: Counts = np.flatnonzero(healable & (bits == one))
        best: dict[str, tuple[tuple[int, int, float, float, int, int], tuple[Change, ...]]] = {}
        for row in _closest(snapshot, request, one, rows):
            changes = _changes(snapshot, request, one, row)
            cuts = [1.0 - (change.to or 0) / (change.asked or 1) for change in changes if change.kind == "less"]
            traits = sum(len(change.traits) + len(change.flags) for change in changes)
            key = (one.bit_count(), one, max(cuts, default=0.0), sum(cuts), traits, int(snapshot.id_order[row]))
            pool = snapshot.hosts[row].pool_id if one & _BIT["pool"] else ""
            if pool not in best or key < best[pool][0]:
                best[pool] = (key, changes)
        found.extend(best.values())
    return [changes for _, changes in sorted(found, key=lambda item: item[0])]


def _healable(snapshot: Snapshot, request: Request, bits: Counts) -> Flags:
    """Rows that changes to the request alone can turn into candidates: in service, with some room of what is short."""
    # With an ask of NUMA cells less is another ask, which no flavor may stand for.
    curable = _HEALABLE if request.numa is None else _HEALABLE & ~_ROOM
    healable: Flags = bits & ~curable == 0
    if request.virt_mode is None:
        healable &= bits & _BIT["virt_mode"] == 0
    else:
        healable &= failing_rows(snapshot, replace(request, virt_mode=None)) & _BIT["virt_mode"] == 0
    for resource in RESOURCES:
        short = bits & _BIT[_FILTER_OF[resource]] != 0
        healable &= ~short | (room(snapshot.capacity[resource], snapshot.used[resource]) >= 1)
    return healable


def _closest(snapshot: Snapshot, request: Request, one: int, rows: Counts) -> list[int]:
    """Return the rows worth comparing: with one resource short and nothing else, that is the roomiest alone."""
    short = [resource for resource in RESOURCES if one & _BIT[_FILTER_OF[resource]]]
    if one.bit_count() == 1 and short:
        free = room(snapshot.capacity[short[0]], snapshot.used[short[0]])[rows]
        return [int(rows[int(free.argmax())])]
    return [int(row) for row in rows]


def _changes(snapshot: Snapshot, request: Request, one: int, row: int) -> tuple[Change, ...]:
    host, changes = snapshot.hosts[row], []
    if one & _BIT["pool"]:
        changes.append(Change("pool", pool=host.pool_id))
    if one & _BIT["target_host"]:
        changes.append(Change("any_host"))
    if one & _BIT["virt_mode"]:
        changes.append(Change("any_mode"))
    if one & _BIT["cpu_model"]:
        changes.append(Change("any_cpu_model"))
    if one & _BIT["cpu_flags"]:
        changes.append(Change("without_flags", flags=tuple(sorted(request.cpu_flags - host.cpu_flags))))
    if one & _BIT["traits"]:
        dropped = (request.required_traits - host.traits) | (request.forbidden_traits & host.traits)
        changes.append(Change("without_traits", traits=tuple(sorted(dropped))))
    if one & (_BIT["anti_affinity"] | _BIT["affinity"]):
        changes.append(Change("soft_group"))
    if one & _BIT["failure_domain"]:
        changes.append(Change("any_domain"))
    for resource in RESOURCES:
        if one & _BIT[_FILTER_OF[resource]]:
            free = int(room(snapshot.capacity[resource][row], snapshot.used[resource][row]))
            changes.append(_less(request, resource, free))
    return tuple(changes)


def _less(request: Request, resource: Resource, to: int) -> Change:
    return Change("less", resource, getattr(request.resources, resource), to, UNITS[resource])


def _for_batch(snapshot: Snapshot, request: Request, count: int) -> list[tuple[Change, ...]]:
    fit = how_many(snapshot, request)
    changes = [Change("fewer", "instances", count, fit)] if fit else []
    for resource in RESOURCES if request.numa is None else ():
        most = _most(snapshot, request, resource, count)
        if most:
            changes.append(_less(request, resource, most))
    if request.pool_id is not None:
        changes.extend(Change("pool", pool=pool) for pool in sorted(snapshot.pools) if pool != request.pool_id)
    if request.group is not None and request.group_rule in ("anti_affinity", "affinity"):
        changes.append(Change("soft_group"))
    if request.group is not None and request.domain_limit is not None:
        changes.append(Change("any_domain"))
    if request.target_host is not None:
        changes.append(Change("any_host"))
    return [(change,) for change in changes if _enough(snapshot, request, change, count)]


def _enough(snapshot: Snapshot, request: Request, change: Change, count: int) -> bool:
    changed, wanted = apply(request, (change,), count)
    return how_many(snapshot, changed) >= wanted


def _most(snapshot: Snapshot, request: Request, resource: Resource, count: int) -> int:
    """Return the largest amount of the resource with which `count` fit, 0 if none. Less always fits where more does."""
    low, high = 0, int(getattr(request.resources, resource))
    while high - low > 1:
        middle = (low + high) // 2
        if _enough(snapshot, request, _less(request, resource, middle), count):
            low = middle
        else:
            high = middle
    return low


def joined(parts: Sequence[str]) -> str:
    """Return one sentence that says all parts."""
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{text[0].upper()}{text[1:]}."


def words(change: Change, pool_names: Mapping[str, str]) -> str:
    """Say one change to a person, as a part of a sentence."""
    match change.kind:
        case "less":
            resource = next(name for name in RESOURCES if name == change.resource)
            return f"ask for at most {change.to} {_WORDS[resource]} instead of {change.asked}"
        case "fewer":
            return f"ask for {change.to} instance{'s' if change.to != 1 else ''} instead of {change.asked}"
        case "pool":
            return f"use the pool {pool_names.get(change.pool, change.pool)}"
        case "without_traits":
            return f"do without the condition on {', '.join(change.traits)}"
        case "any_host":
            return "leave the choice of host open"
        case "any_mode":
            return "leave the virtualization mode open"
        case "soft_group":
            return "make the group's rule a soft one"
        case "any_cpu_model":
            return "take any CPU model"
        case "without_flags":
            return f"do without the CPU flags {', '.join(change.flags)}"
        case "any_domain":
            return "drop the group's limit for each failure domain"
