"""A plan on paper: steps, what speaks against it, and the fingerprint of what it rests on. Nothing is taken."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from compute.models import Host, Instance, SetAside
from compute.placement.promises import IN_SERVICE, promised_units
from compute.placement.reservations import unit_of
from compute.scheduler.losses import Guest, Losses
from compute.scheduler.model import HostState, Resources
from compute.scheduler.promises import Unit, tolerated
from compute.scheduler.snapshot import Snapshot
from compute.services.elsewhere import Obstacle
from compute.services.instances_move import cold_obstacles
from compute.services.migrations import live_obstacles

# Pools of up to so many hosts have their survival looked at after each step, larger ones at the end alone.
HOSTS_LOOKED_AT_EACH_STEP: Final = 60


@dataclass(frozen=True, slots=True)
class Step:
    """One guest and its fate; see models.PlanStep. `after`: places in the draft, from 0."""

    instance: Instance
    source_id: uuid.UUID
    destination_id: uuid.UUID | None
    way: str
    reason: str = ""
    code: str = ""
    message: str = ""
    after: tuple[int, ...] = ()

    @property
    def moves(self) -> bool:
        return self.way != "none"


@dataclass(frozen=True, slots=True)
class Draft:
    """Steps in the order in which they begin. `refusals`: [{code, detail}], for which it may not be applied as it is."""

    steps: tuple[Step, ...]
    refusals: tuple[Mapping[str, str], ...]
    survival: Mapping[str, Any] | None

    def basis(self) -> dict[str, str]:
        """What the plan rests on, by what it is about: each guest with its fate, each refusal. Destinations are not of it:
        one that has filled up meanwhile is replaced."""
        guests = {str(step.instance.id): f"{step.way} {step.code}".strip() for step in self.steps}
        return guests | {refusal["code"]: refusal["detail"] for refusal in self.refusals}

    def fingerprint(self) -> str:
        """Return the same text for the same basis."""
        return hashlib.sha256(json.dumps(self.basis(), sort_keys=True).encode()).hexdigest()


def way_of(instance: Instance, *, power: str | None, stop: bool, asked: bool) -> tuple[str, list[Obstacle]]:
    """Return "live", "cold" or "none", with what is in the way of it.

    `stop`: the operator agrees to a restart of what cannot go while it runs; else its own contract has to. `asked`:
    whoever wishes to be asked before it is moved was.
    """
    if instance.disruption == "consent" and not asked:
        return "none", [Obstacle("needs_consent", "It may not be moved without its tenant being asked.")]
    runs = instance.desired_power == "running" or power in ("running", "paused")
    if instance.kind == "vm" and runs:
        found = live_obstacles(instance, None, power=power)
        if not found:
            return "live", []
    else:
        found = []
    cold = cold_obstacles(instance, None, stop=stop or instance.disruption == "restart", power=power)
    if not cold:
        return "cold", []
    return "none", found or cold


def survival_of(
    snapshot: Snapshot, guests: Sequence[Guest], moves: Sequence[tuple[str, str]], *, losses: int, leaving: str | None
) -> dict[str, Any] | None:
    """Return how many sets of `losses` hosts could not be lost, before the first of `moves` (guest, target) and after each.

    `leaving`: the host that takes no guest any more from the beginning. None where nothing is to be outlived, or there
    are too many sets to look at; of large pools the end alone is looked at.
    """
    if losses < 1:
        return None
    where = {guest.id: guest for guest in guests}
    try:
        before = _uncovered(snapshot, where, losses)
        if leaving is not None:
            host = snapshot.hosts[snapshot.row_of[leaving]]
            snapshot = snapshot.with_host(replace(host, admin_state="draining"))
        after = []
        for number, (guest_id, target) in enumerate(moves, start=1):
            guest = where[guest_id]
            snapshot = moved(snapshot, guest, target)
            where[guest_id] = replace(guest, host_id=target)
            if len(snapshot) <= HOSTS_LOOKED_AT_EACH_STEP or number == len(moves):
                after.append(_uncovered(snapshot, where, losses))
        if not moves:
            after.append(_uncovered(snapshot, where, losses))
    except ValueError:
        return None
    return {"losses": losses, "before": before, "after": after}


def moved(snapshot: Snapshot, guest: Guest, target: str) -> Snapshot:
    """Return the snapshot as it is once the guest has gone from its host to another."""
    host = snapshot.hosts[snapshot.row_of[guest.host_id]]
    group = guest.request.group
    counts = dict(host.group_counts)
    if group is not None and counts.get(group):
        counts[group] -= 1
    less: HostState = replace(
        host, used=host.used - guest.request.resources, instances=host.instances - 1, group_counts=counts
    )
    return snapshot.with_host(less).after(target, guest.request.resources, group=group)


def survival_refusals(survival: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return the refusal of a plan that leaves more losses uncovered than there were."""
    if survival is None or max(survival["after"], default=0) <= survival["before"]:
        return []
    losses = survival["losses"]
    return [
        {
            "code": "losses",
            "detail": f"The pool is to outlive the loss of {losses} of its hosts. With this plan there are "
            f"{max(survival['after'])} losses that would leave guests without a place; now there are {survival['before']}.",
        }
    ]


def promise_refusals(host: Host) -> list[dict[str, str]]:
    """Return a refusal for each size that is promised and would outlive fewer losses than the policy says without the host."""
    slots: dict[Unit, dict[uuid.UUID, int]] = {}
    rows = SetAside.objects.filter(
        host__pool=host.pool_id, host__admin_state="enabled", host__observed_state__in=IN_SERVICE
    )
    for row in rows:
        slots.setdefault(unit_of(row), {})[row.host_id] = row.slots
    found = []
    for unit, promised in sorted(promised_units(pool_id=host.pool_id).items()):
        on = slots.get(unit, {})
        now = tolerated(on.values(), promised)
        then = tolerated((count for host_id, count in on.items() if host_id != host.id), promised)
        if then < min(now, host.pool.host_losses):
            size = Resources(unit.vcpus, unit.memory_mib, unit.disk_gib)
            detail = (
                f"{promised} units of {size.vcpus} vCPU, {size.memory_mib} MiB, {size.disk_gib} GiB are promised and would "
                + (f"outlive {then} host losses" if then >= 0 else "not all have a place")
                + f" without {host.name}; the pool's policy is {host.pool.host_losses}."
            )
            found.append({"code": "promises", "detail": detail})
    return found


def _uncovered(snapshot: Snapshot, where: Mapping[str, Guest], losses: int) -> int:
    return len(Losses.plan(snapshot, where.values(), losses).uncovered)
