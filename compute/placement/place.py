"""Choosing and claiming for a batch of equal requests, all or nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from django.db import transaction

from compute.models import Host
from compute.placement.claims import ClaimRefused, GrantUsedUp, Seat, claim, claim_first, release
from compute.placement.groups import Members, lock_group
from compute.placement.kept import KEPT
from compute.placement.reservations import NOTHING, Reservation, ask_chain
from compute.scheduler.batch import after_member, as_a_whole, with_member
from compute.scheduler.model import Policy, Ranking, Request, Resources
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from tenants import prepared

_ROUNDS = 12
_BEST = 16  # how far down the list a claim goes rather than wait for a host that is being claimed by others


@dataclass(frozen=True, slots=True)
class Placed:
    """Where each consumer went, and the ranking of the first of them. `drawn`: how many fill the tenant's reservation.

    `request` is what was ranked: with what the group has elsewhere, and for a group that shares a host all of them in one.
    """

    hosts: dict[uuid.UUID, uuid.UUID]
    ranking: Ranking
    request: Request
    drawn: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No host takes one of the consumers: the ranking of the first that found none."""

    ranking: Ranking
    request: Request


@dataclass(frozen=True, slots=True)
class Leaving:
    """Where a consumer has its room until now, how much of it is shared, and whose reservation that fills."""

    host_id: uuid.UUID
    resources: Resources
    grant_id: uuid.UUID | None

    def give_back(self, reservation: Reservation) -> None:
        """Note that the room left goes back to the reservation, where it is of that."""
        if reservation.grant_id == self.grant_id:
            reservation.take(str(self.host_id), NOTHING - self.resources)


def place(
    *,
    consumers: Sequence[uuid.UUID],
    request: Request,
    policy: Policy,
    tenant_path: Sequence[uuid.UUID] = (),
    moving: uuid.UUID | None = None,
    leaving: Leaving | None = None,
) -> Placed | Refused:
    """Rank on a snapshot without any lock, then claim under the host rows' locks. Runs inside the caller's transaction.

    What the tenant at the end of `tenant_path` (root first) has reserved is drawn first, then the room that nobody has
    reserved. A host that refuses at claim time is passed over for the next candidate; several consumers are planned
    together and locked in id order, so that two batches cannot deadlock. Each round looks anew: a refusal is final only
    when a look finds no candidate, so a full host never hides a free one.
    `moving`: the instance for which the one consumer, a migration, takes room elsewhere; its group counts it as gone.
    The row of the request's group is locked first, so that its rule still holds when all is committed.
    With `leaving` the one consumer gives back what it has on that host in the moment in which it gets its new room.
    """
    lock_group(request)
    members = Members.of(request, without=moving, leaving=leaving.host_id if leaving else None)
    request = members.told(request)
    pool_id = uuid.UUID(request.pool_id) if request.pool_id else None
    for _ in range(_ROUNDS):
        # A promise is of room that guests share: who asks for CPUs, pages or cells takes from what nobody has reserved.
        path = tenant_path if request.numa is None else ()
        with prepared.together():
            chain = ask_chain(pool_id=pool_id, tenant_path=path) if pool_id and path else list
            snapshot = members.shown(KEPT.look(pool_id))
        reservation = Reservation.load(pool_id=pool_id, chain=chain()) if pool_id and path else None
        if reservation is not None and leaving is not None:
            leaving.give_back(reservation)
        plan = plan_seats(consumers, request, policy, snapshot, reservation, moving=moving is not None)
        if isinstance(plan, Refused):
            return plan
        if leaving is not None:
            seats = _claim_elsewhere(consumers[0], plan, leaving)
        else:
            seats = _claim_batch(plan) if len(consumers) > 1 else _claim_one(consumers[0], plan)
        if seats is not None:
            chosen = {consumer: seat.host_id for consumer, seat in seats.items()}
            drawn = sum(seat.grant_id is not None for seat in seats.values())
            return Placed(hosts=chosen, ranking=plan.ranking, request=plan.request, drawn=drawn)
    # Refused by every candidate in every round while snapshots still show room: others are faster. Say so by ranking.
    return Refused(ranking=plan.ranking, request=plan.request)


@dataclass(frozen=True, slots=True)
class Plan:
    """A seat for each consumer, and the ranking of the first of them."""

    seats: dict[uuid.UUID, Seat]
    ranking: Ranking
    request: Request


def _claim_batch(plan: Plan) -> dict[uuid.UUID, Seat] | None:
    try:
        with transaction.atomic():
            claim(wanted=plan.seats)
    except ClaimRefused:
        return None
    return plan.seats


def _claim_one(consumer: uuid.UUID, plan: Plan) -> dict[uuid.UUID, Seat] | None:
    """Claim the best host that is free of other claims at this moment; where the best few are not, wait for them in turn.

    One consumer walks down the whole list before reading again: under a rush most of the best have just filled up.
    """
    planned = plan.seats[consumer]
    best = [uuid.UUID(one.host_id) for one in plan.ranking.candidates[:_BEST]]
    # A reservation's books, and those of NUMA cells, read and write in turns; without them nothing but the host's row is
    # waited for.
    alone = prepared.together() if planned.grant_id is None and planned.numa is None else nullcontext()
    try:
        with alone, transaction.atomic():
            seat = claim_first(consumer=consumer, seat=planned, hosts=best)
    except GrantUsedUp:
        return None
    except ClaimRefused:
        seat = None
    if seat is not None:
        return {consumer: seat}
    for candidate in plan.ranking.candidates:
        seat = replace(planned, host_id=uuid.UUID(candidate.host_id))
        try:
            with transaction.atomic():
                claim(wanted={consumer: seat})
        except GrantUsedUp:
            return None
        except ClaimRefused:
            continue
        return {consumer: seat}
    return None


def _claim_elsewhere(consumer: uuid.UUID, plan: Plan, leaving: Leaving) -> dict[uuid.UUID, Seat] | None:
    """Give back the room on the host that is left and claim the best candidate's, under one lock of both hosts."""
    planned = plan.seats[consumer]
    for candidate in plan.ranking.candidates[:_BEST]:
        seat = replace(planned, host_id=uuid.UUID(candidate.host_id))
        try:
            with transaction.atomic():
                both = Host.objects.select_for_update(no_key=True).filter(id__in=[leaving.host_id, seat.host_id])
                list(both.order_by("id").values_list("id"))
                release(consumer_type="instance", consumer_id=consumer)
                claim(wanted={consumer: seat})
        except GrantUsedUp:
            return None
        except ClaimRefused:
            continue
        return {consumer: seat}
    return None


def plan_seats(
    consumers: Sequence[uuid.UUID],
    request: Request,
    policy: Policy,
    snapshot: Snapshot,
    reservation: Reservation | None,
    *,
    moving: bool = False,
) -> Plan | Refused:
    """Place all consumers on the snapshot in memory."""
    seats: dict[uuid.UUID, Seat] = {}
    first: tuple[Ranking, Request] | None = None
    current = snapshot
    for index, consumer in enumerate(consumers):
        asked = as_a_whole(request, len(consumers) - index)
        ranking, drawn = _rank(current, asked, policy, reservation)
        first = first or (ranking, asked)
        if not ranking.candidates:
            return Refused(ranking=ranking, request=asked)
        best = ranking.candidates[0].host_id
        host = current.hosts[current.row_of[best]]
        if drawn is not None:
            if request.group is not None:
                current = current.with_host(with_member(host, request.group))
            # Set-aside room counts as used already.
            drawn.take(best, request.resources)
        elif len(consumers) > 1:
            current = current.after(best, request.resources, group=request.group, numa=request.numa)
        request = after_member(request, host)
        seats[consumer] = Seat(
            uuid.UUID(best),
            request.resources,
            drawn.grant_id if drawn else None,
            request.numa,
            "migration" if moving else "instance",
        )
    assert first is not None
    return Plan(seats, *first)


def _rank(
    snapshot: Snapshot, request: Request, policy: Policy, reservation: Reservation | None
) -> tuple[Ranking, Reservation | None]:
    """Rank the hosts with room of the tenant's own where one of them can take the request, else all."""
    if reservation is not None:
        ranking = reservation.rank(snapshot.hosts, request, policy)
        if ranking is not None:
            return ranking, reservation
    return rank(snapshot, request, policy), None
