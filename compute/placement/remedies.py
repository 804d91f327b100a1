"""What would make a refused create succeed: changes to the request, quotas raised, guests moved, a wait until leases end;
each set is proved.

`compute.scheduler.remedies` knows hosts; here quotas, addresses and what an image needs at least come into it, since a
change that suits the hosts alone may be refused by the ledger next.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from compute.placement.give_back import quota_amounts
from compute.placement.lease_waits import LeaseEnd, Promised, WaitForLease, find_wait, waited
from compute.placement.reservations import Reservation
from compute.scheduler import remedies as scheduler
from compute.scheduler.batch import plan_batch
from compute.scheduler.losses import Guest as Movable
from compute.scheduler.make_room import cheapest_moves
from compute.scheduler.model import RESOURCES, UNITS, HostState, Policy, Request, Resource, Resources
from compute.scheduler.ranking import rank
from compute.scheduler.remedies import Change
from compute.scheduler.snapshot import Snapshot
from tenants.scope import ALL, Scope
from tenants.services.quota_forecast import QuotaEffect

_OFFERED: Final = 12
_MOVES_OFFERED: Final = 3
_MOVES_MOST: Final = 3
_MOVES_TRIED: Final = 24
_WORDS: Final[Mapping[str, str]] = {
    "instances": "instances",
    "vcpus": "vCPU",
    "memory_mib": "MiB of memory",
    "disk_gib": "GiB of disk",
}


@dataclass(frozen=True, slots=True)
class RaiseLimit:
    """Raise one tenant's limit on a resource by `by`: of its quota, or of its grant in the pool with the id `pool`.

    `tenant_id` and `tenant` "": one that the reader may not see.
    """

    resource: str
    by: int
    tenant_id: str = ""
    tenant: str = ""
    pool: str = ""
    kind: str = "raise_quota"


@dataclass(frozen=True, slots=True)
class MoveInstance:
    """Move a guest of `tenant_id`, with so much memory to copy, from one host to another. Hosts are told to operators alone."""

    instance_id: str
    instance: str
    tenant_id: str
    from_host: str = ""
    to_host: str = ""
    memory_mib: int = 0
    kind: str = "move_instance"


AnyChange = Change | RaiseLimit | MoveInstance | WaitForLease


@dataclass(frozen=True, slots=True)
class Size:
    """A flavor that may be offered instead."""

    name: str
    resources: Resources


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that could be moved: where it is, and what its host would be chosen by."""

    id: str
    name: str
    tenant_id: str
    host_id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Needs:
    """What a host of one pool must reach."""

    networks: frozenset[str]
    storages: frozenset[str]


@dataclass(frozen=True, slots=True)
class Case:
    """A create as asked, and all that decides about it.

    `snapshot` holds the hosts of every pool that may be offered; `addresses`: pool id -> free addresses; `quota`: the
    effect of the create as asked, from the tenant to the root; `limits`: pool id -> the same of the grants in it;
    `reservations`: pool id -> what the tenant may draw there; `needs`: pool id -> what its hosts must reach;
    `least`: what the image needs, and any flavor has; `guests`: those whose move may be offered; `leases`: instances
    that are deleted at the end of theirs; `promised`: the books of the reservations that these fill; `members`: how many
    of the request's group hold room.
    """

    snapshot: Snapshot
    request: Request
    policy: Policy
    count: int
    quota: Sequence[QuotaEffect]
    addresses: Mapping[str, int]
    pool_names: Mapping[str, str]
    least: Resources
    sizes: Sequence[Size] = ()
    guests: Sequence[Guest] = ()
    limits: Mapping[str, Sequence[QuotaEffect]] = field(default_factory=dict)
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    needs: Mapping[str, Needs] = field(default_factory=dict)
    leases: Sequence[LeaseEnd] = ()
    promised: Promised | None = None
    members: int = 0

    def refused_by(self) -> list[str]:
        """Return the codes of the problems that this create would meet, in the order in which it would meet them."""
        found = []
        if not _fits(self, self.snapshot, self.request, self.count):
            found.append("no_valid_host")
        if self._addresses(self.request) < self.count:
            found.append("no_address_left")
        if _short(self, self.request, self.count):
            found.append("quota_exceeded")
        return found

    def how_many(self, most: int) -> int:
        """Return how many such instances would be taken now, at most `most`."""
        placeable = _drawn(self, self.snapshot, self.request, most)
        placeable += scheduler.how_many(self.snapshot, self.request)
        each = charged(self.request, 1)
        rooms = [
            line.room // each[line.resource]
            for _, line in _charged_lines(self, self.request, 1)
            if line.room is not None and each[line.resource]
        ]
        return min([most, placeable, self._addresses(self.request), *rooms])

    def chosen(self) -> list[HostState]:
        """Return where each instance of a create that fits would go: reserved room first, then what is open to all."""
        found = _reserved(self, self.snapshot, self.request, self.count)
        rest = self.count - len(found)
        if rest:
            found += plan_batch(self.snapshot, self.request, self.policy, rest).hosts
        return [self.snapshot.hosts[self.snapshot.row_of[host_id]] for host_id in found]

    def _addresses(self, request: Request) -> int:
        return self.addresses.get(request.pool_id or "", 0)


@dataclass(frozen=True, slots=True)
class Offer:
    """Changes that together make the create succeed; none can be left out.

    `body`: what to put into the body of the create instead; None where that is not enough. `pool_names` for its words.
    """

    changes: tuple[AnyChange, ...]
    body: Mapping[str, Any] | None
    pool_names: Mapping[str, str]

    def stored(self) -> dict[str, Any]:
        """Return everything as JSON data, for the record; `shown_offers` makes of it what a reader may see."""
        return {
            "changes": [_lean(change) for change in self.changes],
            "body": self.body,
            "pools": {
                change.pool: self.pool_names.get(change.pool, change.pool)
                for change in self.changes
                if isinstance(change, Change | RaiseLimit) and change.pool
            },
        }


def shown_offers(stored: Iterable[Mapping[str, Any]], visible: Scope) -> list[dict[str, Any]]:
    """Return stored offers as JSON data with a sentence each, for who sees these tenants.

    A tenant that is hidden is not named; the move of a hidden tenant's guest is not told at all. Hosts are named to
    operators, who see all tenants.
    """
    shown = []
    for offer in stored:
        changes = [_for_reader(_read(data), visible) for data in offer["changes"]]
        if all(change is not None for change in changes):
            told = [change for change in changes if change is not None]
            sentence = scheduler.joined([_words(change, offer.get("pools", {})) for change in told])
            shown.append(
                {"sentence": sentence, "changes": [_lean(change) for change in told], "body": offer.get("body")}
            )
    return shown


def find_offers(case: Case) -> tuple[Offer, ...]:
    """Return the smallest sets of changes, fewest changes first; () when the create succeeds as it is.

    Each set is proved by asking all that decides about the changed create, and minimal: no proper part of it does.
    """
    if enough(case, ()):
        return ()
    bases = _bases(case)
    candidates = dict.fromkeys(changes for base in bases for changes in _with_ledger(case, base))
    candidates |= dict.fromkeys(_waits(case))
    proved = [
        changes
        for changes in sorted(candidates, key=len)
        if enough(case, changes) and not any(enough(case, part) for part in _parts(changes))
    ]
    return tuple(Offer(changes, _body(case, changes), case.pool_names) for changes in proved[:_OFFERED])


def enough(case: Case, changes: Sequence[AnyChange]) -> bool:
    """Return whether the create, changed like this, would be taken: by hosts, addresses, quotas, and by its image."""
    for change in changes:
        if isinstance(change, WaitForLease):
            case = waited(case, change)
    request, count = _changed(case, changes)
    if count < 1 or not case.least <= request.size:
        return False
    if case.addresses.get(request.pool_id or "", 0) < count:
        return False
    raised = {
        (change.pool, change.tenant_id, change.resource): change.by
        for change in changes
        if isinstance(change, RaiseLimit)
    }
    for pool, line in _charged_lines(case, request, count):
        if line.missing > raised.get((pool, str(line.tenant_id), line.resource), 0):
            return False
    snapshot = case.snapshot
    for change in changes:
        if isinstance(change, MoveInstance):
            moved = _moved(case, snapshot, change)
            if moved is None:
                return False
            snapshot = moved
    return _fits(case, snapshot, request, count)


def _changed(case: Case, changes: Iterable[AnyChange]) -> tuple[Request, int]:
    """Return request and count with the changes made, a changed pool's own networks and storage included."""
    request, count = scheduler.apply(case.request, _own(changes), case.count)
    needs = case.needs.get(request.pool_id or "")
    return (request if needs is None else replace(request, networks=needs.networks, storages=needs.storages)), count


def charged(request: Request, count: int) -> dict[str, int]:
    """Return what `count` such instances are charged for."""
    size = request.size
    return quota_amounts(vcpus=size.vcpus, memory_mib=size.memory_mib, disk_gib=size.disk_gib, count=count)


def _own(changes: Iterable[AnyChange]) -> list[Change]:
    """The changes to the request itself."""
    return [change for change in changes if isinstance(change, Change)]


def _charged_lines(case: Case, request: Request, count: int) -> Iterator[tuple[str, QuotaEffect]]:
    """Yield the quotas' lines, with pool "", and those of the grants in the request's pool, in the order of the charge."""
    amounts = charged(request, count)
    pool = request.pool_id or ""
    for line in case.quota:
        yield "", replace(line, asked=amounts[line.resource])
    for line in case.limits.get(pool, ()):
        yield pool, replace(line, asked=amounts[line.resource])


def _short(case: Case, request: Request, count: int) -> list[tuple[str, QuotaEffect]]:
    return [(pool, line) for pool, line in _charged_lines(case, request, count) if line.missing]


def _fits(case: Case, snapshot: Snapshot, request: Request, count: int) -> bool:
    """Return whether hosts take `count`, as placement goes about it: reserved room first, then what is open to all."""
    open_to_all = scheduler.how_many(snapshot, request)
    return open_to_all >= count or open_to_all + _drawn(case, snapshot, request, count) >= count


def _drawn(case: Case, snapshot: Snapshot, request: Request, most: int) -> int:
    """Return how many of `most` such instances the tenant's own reservation takes."""
    return len(_reserved(case, snapshot, request, most))


def _reserved(case: Case, snapshot: Snapshot, request: Request, most: int) -> list[str]:
    """Return the hosts where the tenant's own reservation would take instances, one after another, `most` at most."""
    reservation = case.reservations.get(request.pool_id or "")
    if reservation is None:
        return []
    left, chosen = copy.deepcopy(reservation), list[str]()
    while len(chosen) < most:
        hosts = [snapshot.hosts[snapshot.row_of[host_id]] for host_id in left.free if host_id in snapshot.row_of]
        ranking = left.rank(hosts, request, case.policy)
        if ranking is None:
            break
        left.take(ranking.candidates[0].host_id, request.resources)
        chosen.append(ranking.candidates[0].host_id)
    return chosen


def _bases(case: Case) -> list[tuple[AnyChange, ...]]:
    """Return what satisfies the hosts and the addresses; the empty set where they are satisfied already."""
    bases: list[tuple[AnyChange, ...]] = []
    if not _fits(case, case.snapshot, case.request, case.count):
        found = scheduler.remedies(case.snapshot, case.request, case.policy, count=case.count)
        bases += [remedy.changes for remedy in found]
    free = case.addresses.get(case.request.pool_id or "", 0)
    if free < case.count:
        bases += [(Change("pool", pool=pool),) for pool in sorted(case.addresses) if pool != case.request.pool_id]
        bases += [(Change("fewer", "instances", case.count, free),)] if free else []
    elif not _fits(case, case.snapshot, case.request, case.count):
        bases += _moves(case)
    return bases or [()]


def _moves(case: Case) -> Iterator[tuple[MoveInstance, ...]]:
    """Yield sets of guests that would make room by leaving their host, those with least memory to copy first."""
    by_id = {guest.id: guest for guest in case.guests}
    movable = [Movable(guest.id, guest.host_id, guest.request) for guest in case.guests]
    name_of = {host.id: host.name for host in case.snapshot.hosts}
    found = cheapest_moves(case.snapshot, case.request, case.policy, movable, most=_MOVES_MOST, tried=_MOVES_TRIED)
    for moves in itertools.islice(found, _MOVES_OFFERED):
        yield tuple(
            MoveInstance(
                guest.id,
                by_id[guest.id].name,
                by_id[guest.id].tenant_id,
                name_of[guest.host_id],
                name_of[target],
                guest.request.size.memory_mib,
            )
            for guest, target in moves
        )


def _waits(case: Case) -> Iterator[tuple[AnyChange, ...]]:
    """Yield the wait that suffices, and the one for hosts and addresses alone with what the quotas want besides."""
    if not case.leases:
        return
    wait = find_wait(case, lambda then: enough(then, ()))
    if wait is not None:
        yield (wait,)
    if _placeable(case) or not _short(case, case.request, case.count):
        return
    for_room = find_wait(case, _placeable)
    if for_room is not None:
        yield from ((for_room, *changes) for changes in _with_ledger(waited(case, for_room), ()))


def _placeable(case: Case) -> bool:
    """Return whether hosts and addresses suffice, whatever the quotas say."""
    free = case.addresses.get(case.request.pool_id or "", 0)
    return free >= case.count and _fits(case, case.snapshot, case.request, case.count)


def _moved(case: Case, snapshot: Snapshot, move: MoveInstance) -> Snapshot | None:
    """Return the snapshot as it is after the move; None where the guest does not fit there."""
    guest = next(guest for guest in case.guests if guest.id == move.instance_id)
    target = next(host for host in snapshot.hosts if host.name == move.to_host)
    if not rank((target,), guest.request, case.policy).candidates:
        return None
    source = snapshot.hosts[snapshot.row_of[guest.host_id]]
    freed = replace(source, used=source.used - guest.request.resources, instances=source.instances - 1)
    return snapshot.with_host(freed).after(target.id, guest.request.resources, group=guest.request.group)


def _with_ledger(case: Case, base: tuple[AnyChange, ...]) -> Iterator[tuple[AnyChange, ...]]:
    """Yield the set with what the quotas want besides: limits raised, or the request made smaller."""
    request, count = _changed(case, base)
    short = _short(case, request, count)
    if not short:
        yield base
        return
    rooms: dict[str, int] = {}
    for _, line in short:
        rooms[line.resource] = min(line.room or 0, rooms.get(line.resource, line.room or 0))
    tightened = base
    for resource in RESOURCES:
        if resource in rooms:
            tightened = _with(tightened, _less(case.request, resource, rooms[resource] // count))
    if case.request.numa is None:
        yield tightened
    each = charged(request, 1)
    fewer = min(rooms[resource] // each[resource] for resource in rooms)
    if fewer:
        yield _with(base, Change("fewer", "instances", case.count, fewer))
    yield (*base, *(_raise(pool, line) for pool, line in short))


def _raise(pool: str, line: QuotaEffect) -> RaiseLimit:
    kind = "raise_grant" if pool else "raise_quota"
    return RaiseLimit(line.resource, line.missing, str(line.tenant_id), line.tenant or "", pool, kind)


def _with(base: tuple[AnyChange, ...], change: Change) -> tuple[AnyChange, ...]:
    """Return the set with this change in the place of one of its kind."""
    kept = [
        other
        for other in base
        if not (isinstance(other, Change) and (other.kind, other.resource) == (change.kind, change.resource))
    ]
    return (*kept, change)


def _less(request: Request, resource: Resource, to: int) -> Change:
    return Change("less", resource, getattr(request.resources, resource), to, UNITS[resource])


def _parts(changes: tuple[AnyChange, ...]) -> Iterator[tuple[AnyChange, ...]]:
    """Yield every proper part, the empty one left out: a refused create is refused as it is."""
    for size in range(1, len(changes)):
        yield from itertools.combinations(changes, size)


def _body(case: Case, changes: Sequence[AnyChange]) -> dict[str, Any] | None:
    """Return the create's fields that put the changes to work, or None where no change of the body does."""
    body: dict[str, Any] = {}
    for change in changes:
        if not isinstance(change, Change) or change.kind not in ("less", "fewer", "pool"):
            return None
        if change.kind == "fewer":
            body["count"] = change.to
        elif change.kind == "pool":
            body["pool"] = case.pool_names.get(change.pool, change.pool)
    request, _ = _changed(case, changes)
    if request.resources != case.request.resources:
        fitting = [size for size in case.sizes if case.least <= size.resources <= request.resources]
        if not fitting:
            return None
        closest = max(fitting, key=lambda size: (*_fill(size.resources, case.request.resources), size.name))
        body["flavor"] = closest.name
    return body


def _fill(size: Resources, asked: Resources) -> tuple[float, float, float]:
    """How much of what is asked this size is, resource by resource, the smallest part first."""
    parts = sorted(getattr(size, name) / max(1, getattr(asked, name)) for name in RESOURCES)
    return parts[0], parts[1], parts[2]


def _read(data: Mapping[str, Any]) -> AnyChange:
    match data["kind"]:
        case "raise_quota" | "raise_grant":
            return RaiseLimit(**data)
        case "move_instance":
            return MoveInstance(**data)
        case "wait_for_lease":
            return WaitForLease.read(data)
        case _:
            return Change(**{**data, "traits": tuple(data.get("traits", ()))})


def _lean(change: AnyChange) -> dict[str, Any]:
    """Return the change as JSON data, without what does not concern it."""
    return {key: value for key, value in asdict(change).items() if value not in ("", None, ())}


def _for_reader(change: AnyChange, visible: Scope) -> AnyChange | None:
    """Return the change as the reader may know it, or None."""
    if visible is ALL or isinstance(change, Change):
        return change
    if isinstance(change, WaitForLease):
        return change.shown(visible)
    seen = change.tenant_id in {str(tenant) for tenant in visible}
    if isinstance(change, RaiseLimit):
        return change if seen else replace(change, tenant_id="", tenant="")
    return replace(change, from_host="", to_host="") if seen else None


def _words(change: AnyChange, pool_names: Mapping[str, str]) -> str:
    match change:
        case WaitForLease():
            return change.words()
        case RaiseLimit():
            whose = f"of {change.tenant}" if change.tenant else "of a tenant above yours"
            amount = f"by {change.by} {_WORDS[change.resource]}"
            if change.pool:
                return f"raise the limit {whose} in the pool {pool_names.get(change.pool, change.pool)} {amount}"
            return f"raise the quota {whose} {amount}"
        case MoveInstance():
            places = f" from {change.from_host} to {change.to_host}" if change.to_host else " to another host"
            return f"move the instance {change.instance} ({change.memory_mib} MiB of memory){places}"
        case _:
            return scheduler.words(change, pool_names)
