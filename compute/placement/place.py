"""Choosing and claiming for a batch of equal requests, all or nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.db import transaction

from compute.placement.claims import ClaimRefused, claim
from compute.placement.loader import load_hosts
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


def place(*, consumers: Sequence[uuid.UUID], request: Request, policy: Policy) -> Placed | Refused:
    """Rank on a snapshot without any lock, then claim under the host rows' locks. Runs inside the caller's transaction.

    A host that refuses at claim time is passed over for the next candidate; several consumers are planned together and
    locked in id order, so that two batches cannot deadlock. Each round reads a fresh snapshot: a refusal is final only
    when a snapshot itself holds no candidate, so a full host never hides a free one.
    """
    pool_id = uuid.UUID(request.pool_id) if request.pool_id else None
    for _ in range(_ROUNDS):
        hosts = load_hosts(pool_id=pool_id)
        ranking, chosen, failed_at = _plan(consumers, request, policy, hosts)
        if failed_at is not None:
            return Refused(ranking=ranking, hosts=hosts, failed_at=failed_at)
        # One consumer walks down the whole list before reading again: under a rush most of the best have just filled up.
        single = [{consumers[0]: uuid.UUID(candidate.host_id)} for candidate in ranking.candidates]
        attempts = single if len(consumers) == 1 else [chosen]
        for attempt in attempts:
            try:
                with transaction.atomic():
                    claim(wanted={consumer: (host, request.resources) for consumer, host in attempt.items()})
            except ClaimRefused:
                continue
            return Placed(hosts=attempt, ranking=ranking, hosts_seen=len(hosts))
    # Refused by every candidate in every round while snapshots still show room: others are faster. Say so by ranking.
    return Refused(ranking=ranking, hosts=hosts, failed_at=0)


def _plan(
    consumers: Sequence[uuid.UUID], request: Request, policy: Policy, hosts: tuple[HostState, ...]
) -> tuple[Ranking, dict[uuid.UUID, uuid.UUID], int | None]:
    """Place all consumers on the snapshot in memory; the third value is the index of the first that found no host."""
    chosen: dict[uuid.UUID, uuid.UUID] = {}
    first: Ranking | None = None
    current = {host.id: host for host in hosts}
    for index, consumer in enumerate(consumers):
        ranking = rank(tuple(current.values()), request, policy)
        first = first or ranking
        if not ranking.candidates:
            return ranking, {}, index
        best = ranking.candidates[0].host_id
        chosen[consumer] = uuid.UUID(best)
        host = current[best]
        current[best] = replace(host, used=host.used + request.resources, instances=host.instances + 1)
    assert first is not None
    return first, chosen, None
