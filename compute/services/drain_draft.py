"""A drain on paper: what becomes of each guest of a host that is to be emptied."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from compute.models import Domain, Host, Instance, Port
from compute.placement.foresight import Foresight
from compute.placement.kept import KEPT
from compute.placement.place import Refused
from compute.scheduler import explain
from compute.scheduler.losses import Guest
from compute.scheduler.make_room import Move, cheapest_moves
from compute.scheduler.model import Policy, Request
from compute.scheduler.ranking import rank
from compute.services.elsewhere import Obstacle, power_of
from compute.services.loss_forecast import asked_for, hosts_of
from compute.services.lost_guests import guests_of, loaded, networks_of, request_of
from compute.services.migrations import as_it_runs, older_than
from compute.services.plan_draft import (
    Draft,
    Step,
    moved,
    promise_refusals,
    survival_of,
    survival_refusals,
    way_of,
)

MOST_MOVES_FOR_ROOM: Final = 2
SETS_TRIED: Final = 16


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """What the operator agrees to. `stop`: restarts of what cannot go while it runs. `consent`: ids of instances whose
    tenants were asked. `accept_losses`: N+k may fail meanwhile, and after."""

    stop: bool = False
    consent: tuple[str, ...] = ()
    accept_losses: bool = False

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> DrainOptions:
        """Read what a plan's row keeps of it."""
        return cls(options["stop"], tuple(options["consent"]), options["accept_losses"])


@dataclass(slots=True)
class _Drain:
    """The draft as it grows."""

    host: Host
    options: DrainOptions
    foresight: Foresight
    everybody: Sequence[Guest]
    """all guests of the pool, as they are asked for today"""
    steps: list[Step] = field(default_factory=list)


def draft_drain(host: Host, options: DrainOptions, *, without: frozenset[uuid.UUID] = frozenset()) -> Draft:
    """Say of each guest of the host where it would go and how, largest first; of the others why not.

    Those that find no room get it by moves of at most two guests of other hosts, where that can be. `without`: guests
    that are left out, as they are under way already.
    """
    # Without locks each reading is a little younger than the one before. What only a younger one has is left out, so that
    # each guest of the draft is among everybody, and everybody is on a host of the snapshot. Whoever came is seen by `apply`.
    snapshot = KEPT.look(host.pool_id)
    everybody = list(asked_for(host.pool, hosts_of(host.pool, snapshot)))
    here = {uuid.UUID(guest.id) for guest in everybody if guest.host_id == str(host.id)}
    drain = _Drain(host, options, Foresight.of(snapshot, pool_id=host.pool_id, lost=host.id), everybody)
    rows = loaded(guests_of(host).exclude(id__in=without)).select_related("pool", "image", "host__pool")
    guests = sorted((row for row in rows if row.id in here), key=lambda guest: (-guest.memory_mib, guest.id))
    networks = networks_of(Port.unscoped.filter(instance__in=guests))
    powers = dict(Domain.objects.filter(host=host, instance__in=guests).values_list("instance_id", "power"))
    older = older_than(host)
    for guest in guests:
        asked = str(guest.id) in options.consent
        way, obstacles = way_of(guest, power=powers.get(guest.id), stop=options.stop, asked=asked)
        if obstacles:
            drain.steps.append(_stays(guest, obstacles))
        else:
            request = request_of(guest, host, networks.get(guest.id, frozenset()))
            _find_place(drain, guest, way, as_it_runs(request, guest, older) if way == "live" else request)
    moves = [(str(step.instance.id), str(step.destination_id)) for step in drain.steps if step.moves]
    survival = survival_of(snapshot, everybody, moves, losses=host.pool.host_losses, leaving=str(host.id))
    refusals = [] if options.accept_losses else [*survival_refusals(survival), *promise_refusals(host)]
    return Draft(tuple(drain.steps), tuple(refusals), survival)


def _find_place(drain: _Drain, guest: Instance, way: str, request: Request) -> None:
    found = _bring(drain, guest, request)
    after: tuple[int, ...] = ()
    if isinstance(found, Refused):
        after = _make_room(drain, guest, request)
        found = _bring(drain, guest, request) if after else found
    if isinstance(found, Refused):
        sentences = " ".join(explain.operator_summary(found.ranking))
        drain.steps.append(_stays(guest, [Obstacle("no_valid_host", sentences)]))
        return
    reason = f"{drain.host.name} is to be emptied"
    drain.steps.append(Step(guest, drain.host.id, found, way, reason=reason, after=after))


def _bring(drain: _Drain, guest: Instance, request: Request) -> uuid.UUID | Refused:
    return drain.foresight.bring_back(consumer=guest.id, request=request, policy=Policy(name=drain.host.pool.policy))


def _make_room(drain: _Drain, guest: Instance, request: Request) -> tuple[int, ...]:
    """Add the cheapest moves of others that let the guest in; return their places in the draft, none where there are none."""
    moving = {str(step.instance.id) for step in drain.steps}
    others = [other for other in drain.everybody if other.host_id != str(drain.host.id) and other.id not in moving]
    policy = Policy(name=drain.host.pool.policy)
    ways = cheapest_moves(drain.foresight.snapshot, request, policy, others, most=MOST_MOVES_FOR_ROOM, tried=SETS_TRIED)
    for moves in ways:
        rows = loaded(Instance.unscoped.filter(id__in=[move.guest.id for move in moves]))
        instances = {str(row.id): row for row in rows.select_related("pool", "image", "host__pool")}
        if not all(_goes_live(drain, instances[move.guest.id], move) for move in moves):
            continue
        first = len(drain.steps)
        for move in moves:
            drain.foresight.snapshot = moved(drain.foresight.snapshot, move.guest, move.target)
            source, target = uuid.UUID(move.guest.host_id), uuid.UUID(move.target)
            reason = f"makes room for {guest.name}"
            drain.steps.append(Step(instances[move.guest.id], source, target, "live", reason=reason))
        return tuple(range(first, len(drain.steps)))
    return ()


def _goes_live(drain: _Drain, instance: Instance, move: Move) -> bool:
    """Whether it may be moved there for the sake of another: while it runs, or not at all."""
    # A draft takes no locks: between two of its reads the guest may have been deleted, or have come to another host.
    if instance.host is None or str(instance.host_id) != move.guest.host_id:
        return False
    if instance.busy or way_of(instance, power=power_of(instance), stop=False, asked=False)[0] != "live":  # type: ignore[attr-defined]
        return False
    request = as_it_runs(move.guest.request, instance, older_than(instance.host))
    host = drain.foresight.snapshot.hosts[drain.foresight.snapshot.row_of[move.target]]
    return bool(rank((host,), request, Policy(name=drain.host.pool.policy)).candidates)


def _stays(guest: Instance, obstacles: list[Obstacle]) -> Step:
    assert guest.host_id is not None
    message = " ".join(obstacle.detail for obstacle in obstacles)[:1000]
    return Step(guest, guest.host_id, None, "none", code=obstacles[0].code, message=message)
