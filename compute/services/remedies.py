"""What would make a refused create succeed: changes to the request, quotas raised, each set proved before it is offered.

`compute.scheduler.remedies` knows hosts; here quotas, addresses and what an image needs at least come into it, since a
change that suits the hosts alone may be refused by the ledger next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from compute.placement.give_back import quota_amounts
from compute.scheduler import remedies as scheduler
from compute.scheduler.model import RESOURCES, UNITS, Policy, Request, Resource, Resources
from compute.scheduler.remedies import Change
from compute.scheduler.snapshot import Snapshot
from tenants.services.quota_forecast import QuotaEffect

_OFFERED: Final = 12
_WORDS: Final[Mapping[str, str]] = {
    "instances": "instances",
    "vcpus": "vCPU",
    "memory_mib": "MiB of memory",
    "disk_gib": "GiB of disk",
}


@dataclass(frozen=True, slots=True)
class RaiseQuota:
    """Raise one level's limit on a resource by `by`. `tenant_id` and `tenant` "": a level that the actor may not see."""

    resource: str
    by: int
    tenant_id: str = ""
    tenant: str = ""
    level: int = 0
    kind: str = "raise_quota"


AnyChange = Change | RaiseQuota


@dataclass(frozen=True, slots=True)
class Size:
    """A flavor that may be offered instead."""

    name: str
    resources: Resources


@dataclass(frozen=True, slots=True)
class Case:
    """A create as asked, and all that decides about it.

    `snapshot` holds the hosts of every pool that may be offered; `addresses`: pool id -> free addresses; `quota`: the
    effect of the create as asked, from the tenant to the root; `least_disk_gib`: what the image needs.
    """

    snapshot: Snapshot
    request: Request
    policy: Policy
    count: int
    quota: Sequence[QuotaEffect]
    addresses: Mapping[str, int]
    pool_names: Mapping[str, str]
    sizes: Sequence[Size] = ()
    least_disk_gib: int = 0

    def refused_by(self) -> list[str]:
        """Return the codes of the problems that this create would meet, in the order in which it would meet them."""
        found = []
        if scheduler.how_many(self.snapshot, self.request) < self.count:
            found.append("no_valid_host")
        if self._addresses(self.request) < self.count:
            found.append("no_address_left")
        if _short(self, self.request, self.count):
            found.append("quota_exceeded")
        return found

    def how_many(self, most: int) -> int:
        """Return how many such instances would be taken now, at most `most`."""
        rooms = [most, scheduler.how_many(self.snapshot, self.request), self._addresses(self.request)]
        each = charged(self.request, 1)
        rooms += [
            line.room // each[line.resource] for line in self.quota if line.room is not None and each[line.resource]
        ]
        return min(rooms)

    def _addresses(self, request: Request) -> int:
        return self.addresses.get(request.pool_id or "", 0)


@dataclass(frozen=True, slots=True)
class Offer:
    """Changes that together make the create succeed; none can be left out. `sentence` says them to a person.

    `body`: what to put into the body of the create instead; None where that is not enough.
    """

    changes: tuple[AnyChange, ...]
    sentence: str
    body: Mapping[str, Any] | None

    def as_data(self) -> dict[str, Any]:
        """Return the offer as JSON data, without what does not concern it."""
        changes = [
            {key: value for key, value in asdict(change).items() if value not in ("", None, ()) and key != "level"}
            for change in self.changes
        ]
        return {"sentence": self.sentence, "changes": changes, "body": self.body}


def find_offers(case: Case) -> tuple[Offer, ...]:
    """Return the smallest sets of changes, fewest changes first; () when the create succeeds as it is.

    Each set is proved by asking all that decides about the changed create, and minimal: no proper part of it does.
    """
    if enough(case, ()):
        return ()
    candidates = dict.fromkeys(changes for base in _bases(case) for changes in _with_ledger(case, base))
    offers = []
    for changes in sorted(candidates, key=len):
        if enough(case, changes) and not any(enough(case, part) for part in _parts(changes)):
            offers.append(Offer(changes, _sentence(changes, case.pool_names), _body(case, changes)))
    return tuple(offers[:_OFFERED])


def enough(case: Case, changes: Sequence[AnyChange]) -> bool:
    """Return whether the create, changed like this, would be taken: by hosts, addresses, quotas, and by its image."""
    request, count = scheduler.apply(
        case.request, [change for change in changes if isinstance(change, Change)], case.count
    )
    if count < 1 or any(isinstance(change, Change) and change.kind == "less" and not change.to for change in changes):
        return False
    if request.resources.disk_gib < case.least_disk_gib or case.addresses.get(request.pool_id or "", 0) < count:
        return False
    raised = {(change.level, change.resource): change.by for change in changes if isinstance(change, RaiseQuota)}
    if any(
        line.missing > raised.get((level, line.resource), 0) for level, line in _charged_lines(case, request, count)
    ):
        return False
    return scheduler.how_many(case.snapshot, request) >= count


def charged(request: Request, count: int) -> dict[str, int]:
    """Return what `count` such instances are charged for."""
    size = request.resources
    return quota_amounts(vcpus=size.vcpus, memory_mib=size.memory_mib, disk_gib=size.disk_gib, count=count)


def _charged_lines(case: Case, request: Request, count: int) -> Iterator[tuple[int, QuotaEffect]]:
    amounts = charged(request, count)
    for level, line in enumerate(case.quota):
        yield level, replace(line, asked=amounts[line.resource])


def _short(case: Case, request: Request, count: int) -> list[tuple[int, QuotaEffect]]:
    return [(level, line) for level, line in _charged_lines(case, request, count) if line.missing]


def _bases(case: Case) -> list[tuple[AnyChange, ...]]:
    """Return what satisfies the hosts and the addresses; the empty set where they are satisfied already."""
    found = scheduler.remedies(case.snapshot, case.request, case.policy, count=case.count, pool_names=case.pool_names)
    bases: list[tuple[AnyChange, ...]] = [remedy.changes for remedy in found]
    free = case.addresses.get(case.request.pool_id or "", 0)
    if free < case.count:
        bases += [(Change("pool", pool=pool),) for pool in sorted(case.addresses) if pool != case.request.pool_id]
        bases += [(Change("fewer", "instances", case.count, free),)] if free else []
    return bases or [()]


def _with_ledger(case: Case, base: tuple[AnyChange, ...]) -> Iterator[tuple[AnyChange, ...]]:
    """Yield the set with what the quotas want besides: limits raised, or the request made smaller."""
    request, count = scheduler.apply(
        case.request, [change for change in base if isinstance(change, Change)], case.count
    )
    short = _short(case, request, count)
    if not short:
        yield base
        return
    rooms: dict[str, int] = {}
    for _, line in short:
        rooms[line.resource] = min(line.room or 0, rooms.get(line.resource, line.room or 0))
    yield _tightened(case, base, rooms, count)
    each = charged(request, 1)
    fewer = min(rooms[resource] // each[resource] for resource in rooms)
    if fewer:
        yield _with_less(base, Change("fewer", "instances", case.count, fewer))
    yield (
        *base,
        *(
            RaiseQuota(line.resource, line.missing, str(line.tenant_id or ""), line.tenant or "", level)
            for level, line in short
        ),
    )


def _tightened(case: Case, base: tuple[AnyChange, ...], rooms: Mapping[str, int], count: int) -> tuple[AnyChange, ...]:
    """Ask so much less of each resource that the quotas leave room for it."""
    for resource in RESOURCES:
        if resource in rooms:
            base = _with_less(base, _less(case.request, resource, rooms[resource] // count))
    return base


def _with_less(base: tuple[AnyChange, ...], change: Change) -> tuple[AnyChange, ...]:
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


def _body(case: Case, changes: Iterable[AnyChange]) -> dict[str, Any] | None:
    """Return the create's fields that put the changes to work, or None where no change of the body does."""
    body: dict[str, Any] = {}
    for change in changes:
        if not isinstance(change, Change) or change.kind not in ("less", "fewer", "pool"):
            return None
        if change.kind == "fewer":
            body["count"] = change.to
        elif change.kind == "pool":
            body["pool"] = case.pool_names.get(change.pool, change.pool)
    own = [change for change in changes if isinstance(change, Change)]
    request, _ = scheduler.apply(case.request, own, case.count)
    if request.resources != case.request.resources:
        fitting = [
            size
            for size in case.sizes
            if size.resources <= request.resources and size.resources.disk_gib >= case.least_disk_gib
        ]
        if not fitting:
            return None
        closest = max(fitting, key=lambda size: (*_fill(size.resources, case.request.resources), size.name))
        body["flavor"] = closest.name
    return body


def _fill(size: Resources, asked: Resources) -> tuple[float, float, float]:
    parts = sorted(getattr(size, name) / max(1, getattr(asked, name)) for name in RESOURCES)
    return parts[0], parts[1], parts[2]


def _sentence(changes: Sequence[AnyChange], pool_names: Mapping[str, str]) -> str:
    return scheduler.joined([_words(change, pool_names) for change in changes])


def _words(change: AnyChange, pool_names: Mapping[str, str]) -> str:
    if isinstance(change, Change):
        return scheduler.words(change, pool_names)
    whose = f"of {change.tenant}" if change.tenant else "of a tenant above yours"
    return f"raise the quota {whose} by {change.by} {_WORDS[change.resource]}"
