"""Choosing and claiming for a batch of equal requests, all or nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from django.db import transaction

from compute.placement.claims import ClaimRefused, Seat, claim
from compute.placement.loader import load_hosts
from compute.placement.reservations import Reservation
from compute.scheduler.model import HostState, Policy, Ranking, Request
from compute.scheduler.ranking import rank

_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Placed:
    """Where each consumer went, the ranking of the first of them, and how many hosts were looked at."""

    hosts: dict[uuid.UUID, uuid.UUID]
    ranking: Ranking
    hosts_seen: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No host takes the `failed_at`-th consumer (0-based). The snapshot is kept so that remedies can be worked out."""

    ranking: Ranking
    hosts: tuple[HostState, ...]
    failed_at: int


def place(
    *, consumers: Sequence[uuid.UUID], request: Request, policy: Policy, tenant_path: Sequence[uuid.UUID] = ()
) -> Placed | Refused:
    """Rank on a snapshot without any lock, then claim under the host rows' locks. Runs inside the caller's transaction.

    What the tenant at the end of `tenant_path` (root first) has reserved is drawn first, then the room that nobody has
    reserved. A host that refuses at claim time is passed over for the next candidate; several consumers are planned
    together and locked in id order, so that two batches cannot deadlock. Each round reads a fresh snapshot: a refusal
    is final only when a snapshot itself holds no candidate, so a full host never hides a free one.
    """
    pool_id = uuid.UUID(request.pool_id) if request.pool_id else None
    for _ in range(_ROUNDS):
        hosts = load_hosts(pool_id=pool_id)
        reservation = Reservation.load(pool_id=pool_id, tenant_path=tenant_path) if pool_id and tenant_path else None
        plan = _plan(consumers, request, policy, hosts, reservation)
        if isinstance(plan, Refused):
            return plan
        for seats in _attempts(plan, consumers, request):
            try:
                with transaction.atomic():
                    claim(wanted=seats)
            except ClaimRefused:
                continue
            chosen = {consumer: seat.host_id for consumer, seat in seats.items()}
            return Placed(hosts=chosen, ranking=plan.ranking, hosts_seen=len(hosts))
    # Refused by every candidate in every round while snapshots still show room: others are faster. Say so by ranking.
    return Refused(ranking=plan.ranking, hosts=hosts, failed_at=0)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A seat for each consumer, and the ranking of the first of them."""

    seats: dict[uuid.UUID, Seat]
    ranking: Ranking


def _attempts(plan: _Plan, consumers: Sequence[uuid.UUID], request: Request) -> Iterator[dict[uuid.UUID, Seat]]:
    """One consumer walks down the whole list before reading again: under a rush most of the best have just filled up."""
    if len(consumers) > 1:
        yield plan.seats
        return
    seat = plan.seats[consumers[0]]
    for candidate in plan.ranking.candidates:
        yield {consumers[0]: Seat(uuid.UUID(candidate.host_id), request.resources, seat.grant_id)}


def _plan(
    consumers: Sequence[uuid.UUID],
    request: Request,
    policy: Policy,
    hosts: tuple[HostState, ...],
    reservation: Reservation | None,
) -> _Plan | Refused:
    """Place all consumers on the snapshot in memory."""
    seats: dict[uuid.UUID, Seat] = {}
    first: Ranking | None = None
    current = {host.id: host for host in hosts}
    for index, consumer in enumerate(consumers):
        ranking, drawn = _rank(tuple(current.values()), request, policy, reservation)
        first = first or ranking
        if not ranking.candidates:
            return Refused(ranking=ranking, hosts=hosts, failed_at=index)
        best = ranking.candidates[0].host_id
        if drawn is None:
            host = current[best]
            current[best] = replace(host, used=host.used + request.resources, instances=host.instances + 1)
        else:
            # Set-aside room counts as used already.
            drawn.take(best, request.resources)
        seats[consumer] = Seat(uuid.UUID(best), request.resources, drawn.grant_id if drawn else None)
    assert first is not None
    return _Plan(seats, first)


def _rank(
    hosts: tuple[HostState, ...], request: Request, policy: Policy, reservation: Reservation | None
) -> tuple[Ranking, Reservation | None]:
    """Rank the hosts with room of the tenant's own where one of them can take the request, else all."""
    if reservation is not None:
        ranking = rank(reservation.lend(hosts, request.resources), request, policy)
        if ranking.candidates:
            return ranking, reservation
    return rank(hosts, request, policy), None
