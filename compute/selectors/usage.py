"""Usage of a tenant and all below it, added up from the segments of the usage ledger.

A figure is seconds x amount, an integer: the segment's whole seconds inside the period times what it holds. Hence parts
add up exactly, whether a tenant's tree is cut into its branches, a period into shorter ones, or both.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from django.db import connection, transaction

from compute import outbox
from tenants.errors import InvalidInput
from tenants.models import Tenant
from tenants.services.access import Actor, authorize_past

GROUPS: Final[tuple[str, ...]] = ("tenant", "flavor", "pool", "kind", "instance", "day")
MAX_DAYS: Final = 3660
MAX_GROUPS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end) in whole seconds. `until`: the part that has been lived through, on the database's clock."""

    start: datetime
    end: datetime
    until: datetime

    @classmethod
    def between(cls, start: datetime | None, end: datetime | None) -> Period:
        """Return the period from `start` (the first of this month, UTC) to `end` (now). Raises InvalidInput."""
        now = outbox.database_now().astimezone(UTC).replace(microsecond=0)
        start = now.replace(day=1, hour=0, minute=0, second=0) if start is None else start.astimezone(UTC)
        end = max(now, start) if end is None else end.astimezone(UTC)
        for name, moment in (("from", start), ("to", end)):
            if moment.microsecond:
                raise InvalidInput.field(f"?{name}", "invalid", "Usage is kept in whole seconds.")
        if not start <= end:
            raise InvalidInput.field("?to", "out_of_range", "The period ends before it begins.")
        if end - start > timedelta(days=MAX_DAYS):
            raise InvalidInput.field("?from", "out_of_range", f"A period has at most {MAX_DAYS} days.")
        return cls(start, end, max(start, min(end, now)))

    def cut_at(self, moments: Iterable[datetime]) -> list[tuple[datetime, datetime]]:
        """Cut what has been lived through at those moments that lie inside; neighbours touch."""
        inside = {moment for moment in moments if self.start < moment < self.until}
        return list(pairwise(sorted({self.start, self.until} | inside)))

    def midnights(self) -> list[datetime]:
        """Return the starts of the days (UTC) inside the period."""
        first = self.start.replace(hour=0, minute=0, second=0)
        return [first + timedelta(days=number) for number in range((self.until - first).days + 1)]


@dataclass(frozen=True, slots=True)
class Amounts:
    """Seconds times amount."""

    instance_seconds: int = 0
    vcpu_seconds: int = 0
    memory_mib_seconds: int = 0
    disk_gib_seconds: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.instance_seconds + other.instance_seconds,
            self.vcpu_seconds + other.vcpu_seconds,
            self.memory_mib_seconds + other.memory_mib_seconds,
            self.disk_gib_seconds + other.disk_gib_seconds,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return self + other * -1

    def __mul__(self, factor: int) -> Amounts:
        return Amounts(
            self.instance_seconds * factor,
            self.vcpu_seconds * factor,
            self.memory_mib_seconds * factor,
            self.disk_gib_seconds * factor,
        )


@dataclass(frozen=True, slots=True)
class Source:
    """What has one price at one time, and one payer."""

    tenant_id: uuid.UUID
    flavor_id: uuid.UUID
    pool_id: uuid.UUID
    kind: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What one group used between two cuts; `source`: the part of it that one tenant's instances of one make used."""

    group: str
    group_name: str
    source: Source | None
    start: datetime
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Group:
    """One line of a report. `id`: of the tenant, flavor, pool or instance; else the kind, or the day."""

    id: str
    name: str
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Usage of a tenant (None: of the whole cloud) in a period; `groups` add up to `total`."""

    tenant: Tenant | None
    period: Period
    group_by: str
    groups: tuple[Group, ...]
    total: Amounts


# Each segment is read once, however many cuts there are: segments that begin between the same two cuts and end between the
# same two are added up (amounts, and what is missing of each at both ends); `_spread` lays the sums over the cuts between.
# Group "tenant": the next tenant below the payer on the way to the one that used it, or the payer itself.
_PIECES: Final = """
WITH cuts AS (
    SELECT %(starts)s::bigint[] AS starts, %(ends)s::bigint[] AS ends, %(start)s::bigint AS start, %(until)s::bigint AS until
), used AS (
    SELECT CASE %(group_by)s
               WHEN 'tenant' THEN coalesce(s.payers[coalesce(array_position(s.payers, %(payer)s::uuid), 0) + 1], s.tenant_id)::text
               WHEN 'flavor' THEN s.flavor_id::text
               WHEN 'pool' THEN s.pool_id::text
               WHEN 'kind' THEN s.kind
               WHEN 'instance' THEN s.consumer_id::text
               ELSE '' END AS key,
           CASE %(group_by)s WHEN 'flavor' THEN s.flavor_name WHEN 'pool' THEN s.pool_name
                             WHEN 'instance' THEN s.consumer_name ELSE '' END AS name,
           CASE WHEN %(for_prices)s THEN s.tenant_id END AS tenant_id, CASE WHEN %(for_prices)s THEN s.flavor_id END AS flavor_id,
           CASE WHEN %(for_prices)s THEN s.pool_id END AS pool_id, CASE WHEN %(for_prices)s THEN s.kind END AS kind,
           s.vcpus, s.memory_mib, s.disk_gib, greatest(date_part('epoch', s.billed_from)::bigint, c.start) AS began,
           least(coalesce(date_part('epoch', s.ended_at)::bigint, c.until), c.until) AS ended
    FROM tenants_usagesegment s CROSS JOIN cuts c
    WHERE s.billed_from < to_timestamp(%(until)s) AND (s.ended_at IS NULL OR s.ended_at > to_timestamp(%(start)s))
      AND (%(payer)s::uuid IS NULL OR s.payers @> ARRAY[%(payer)s::uuid])
), placed AS (
    SELECT u.*, width_bucket(u.began, c.starts) AS first, width_bucket(u.ended - 1, c.starts) AS last
    FROM used u CROSS JOIN cuts c WHERE u.began < u.ended
), late AS (
    SELECT p.*, p.began - c.starts[p.first] AS before, c.ends[p.last] - p.ended AS after FROM placed p CROSS JOIN cuts c
)
SELECT key, max(name), tenant_id, flavor_id, pool_id, kind, first, last,
       count(*), sum(vcpus)::bigint, sum(memory_mib)::bigint, sum(disk_gib)::bigint,
       sum(before)::bigint, sum(vcpus * before)::bigint, sum(memory_mib * before)::bigint, sum(disk_gib * before)::bigint,
       sum(after)::bigint, sum(vcpus * after)::bigint, sum(memory_mib * after)::bigint, sum(disk_gib * after)::bigint
FROM late GROUP BY key, tenant_id, flavor_id, pool_id, kind, first, last ORDER BY key, first, last
"""


# Counted first: the report itself would be in memory by the time that it is found to be too long.
_INSTANCES: Final = """
SELECT count(*) FROM (
    SELECT DISTINCT s.consumer_id FROM tenants_usagesegment s
    WHERE s.billed_from < to_timestamp(%(until)s) AND (s.ended_at IS NULL OR s.ended_at > to_timestamp(%(start)s))
      AND (%(payer)s::uuid IS NULL OR s.payers @> ARRAY[%(payer)s::uuid]) LIMIT %(most)s
) found
"""


def measure(
    *, payer: uuid.UUID | None, cuts: Sequence[tuple[datetime, datetime]], group_by: str, for_prices: bool = False
) -> list[Piece]:
    """Add up what `payer` and all below it were charged for, between each two cuts. `cuts` touch, in order.

    `for_prices`: a piece for each source, else one for each group. Raises InvalidInput for too many instances.
    """
    if not cuts:
        return []
    parameters = {
        "payer": payer,
        "starts": [int(start.timestamp()) for start, _ in cuts],
        "ends": [int(end.timestamp()) for _, end in cuts],
        "start": int(cuts[0][0].timestamp()),
        "until": int(cuts[-1][1].timestamp()),
        "group_by": group_by,
        "for_prices": for_prices,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        # For this transaction alone: the sums of all groups fit into memory, so that no segment has to be sorted on disk.
        cursor.execute("SET LOCAL work_mem = '32MB'")
        if group_by == "instance":
            cursor.execute(_INSTANCES, {**parameters, "most": MAX_GROUPS + 1})
            check_group_count(cursor.fetchone()[0])
        cursor.execute(_PIECES, parameters)
        rows = cursor.fetchall()
    pieces = []
    for group, name, *source, first, last, n, v, m, d, n0, v0, m0, d0, n1, v1, m1, d1 in rows:
        for cut, amounts in _spread(
            cuts, first - 1, last - 1, Amounts(n, v, m, d), Amounts(n0, v0, m0, d0), Amounts(n1, v1, m1, d1)
        ):
            made = Source(*source) if for_prices else None
            pieces.append(Piece(group=group, group_name=name, source=made, start=cuts[cut][0], amounts=amounts))
    return pieces


def _spread(
    cuts: Sequence[tuple[datetime, datetime]], first: int, last: int, held: Amounts, before: Amounts, after: Amounts
) -> Iterator[tuple[int, Amounts]]:
    """Yield (cut, seconds x amount) for each cut from the first to the last that some segments lie in.

    `held`: what they hold together; `before`, `after`: seconds x amount by which they begin late in the first cut and end
    early in the last.
    """
    for cut in range(first, last + 1):
        seconds = int((cuts[cut][1] - cuts[cut][0]).total_seconds())
        amounts = held * seconds
        amounts = amounts - before if cut == first else amounts
        yield cut, amounts - after if cut == last else amounts


def read_usage(*, actor: Actor, tenant: Tenant | None, period: Period, group_by: str = "tenant") -> UsageReport:
    """Return the usage of a tenant and all below it (None: of the whole cloud, for operators), in groups.

    What is still held counts up to now. Raises PermissionDenied, NotFound, InvalidInput (too many groups).
    """
    authorize_past(actor, "usage.read", tenant)
    cuts = period.cut_at(period.midnights() if group_by == "day" else ())
    pieces = measure(payer=tenant.id if tenant else None, cuts=cuts, group_by=group_by)
    sums: dict[str, Amounts] = {}
    names: dict[str, str] = {}
    if group_by == "day":
        sums = {start.date().isoformat(): Amounts() for start, _ in cuts}
    for piece in pieces:
        key = piece.start.astimezone(UTC).date().isoformat() if group_by == "day" else piece.group
        sums[key] = sums.get(key, Amounts()) + piece.amounts
        names[key] = piece.group_name or key
    check_group_count(len(sums))
    if group_by == "tenant":
        names |= tenant_names(sums)
    groups = tuple(Group(key, names.get(key, key), amounts) for key, amounts in sums.items())
    total = sum((group.amounts for group in groups), Amounts())
    return UsageReport(tenant=tenant, period=period, group_by=group_by, groups=_sorted(groups, group_by), total=total)


def check_group_count(count: int) -> None:
    """Raise InvalidInput for a report that nobody reads and that would fill the memory of a web process."""
    if count > MAX_GROUPS:
        detail = f"That would be more than {MAX_GROUPS} lines: group by flavor, take a shorter period, or ask for a tenant below."
        raise InvalidInput.field("?group_by", "too_many", detail)


def tenant_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the tenants' names by id, as texts."""
    rows = Tenant.objects.filter(id__in=list(keys)).values_list("id", "name")
    return {str(tenant_id): name for tenant_id, name in rows}


def deleted_among(keys: Iterable[str]) -> set[str]:
    """Return the ids, as texts, of those tenants that are deleted."""
    rows = Tenant.objects.filter(id__in=list(keys), state=Tenant.State.DELETED).values_list("id", flat=True)
    return {str(tenant_id) for tenant_id in rows}


def _sorted(groups: tuple[Group, ...], group_by: str) -> tuple[Group, ...]:
    if group_by == "day":
        return tuple(sorted(groups, key=lambda group: group.id))
    return tuple(sorted(groups, key=lambda group: (-group.amounts.vcpu_seconds, group.name, group.id)))
