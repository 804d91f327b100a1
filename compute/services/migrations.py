"""Live migrations: checked, placed, claimed and ordered. By operators alone: a tenant's instance runs on, wherever."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction

from compute.models import Host, Instance, Migration, Operation
from compute.scheduler.model import Request
from compute.services.elsewhere import (
    MigrationCheck,
    Obstacle,
    check_elsewhere,
    claim_elsewhere,
    place_obstacles,
    power_of,
    record_move,
    refuse_obstacles,
    request_elsewhere,
    submit_move,
)
from compute.services.locking import lock_instance
from compute.wire import MigrationJob
from tenants.errors import InvalidInput
from tenants.models.ids import new_id
from tenants.services.access import Actor

SETTLE_SECONDS: Final = 300  # beyond the job's own deadline: getting ready, looking at both ends, tidying up
HOST_PROCESSOR: Final = "host-passthrough"


@dataclass(frozen=True, slots=True)
class Terms:
    """How a guest may be treated on its way. `bandwidth_mib_s` 0: as fast as the link is; pauses in milliseconds.

    See `wire.MigrationJob` for the ladder that these are the rungs of.
    """

    bandwidth_mib_s: int = 0
    downtime_ms: int = 300
    downtime_limit_ms: int = 2000
    auto_converge: bool = True
    at_the_end: str = "give_up"
    deadline_seconds: int = 600

    def check(self) -> None:
        """Raises InvalidInput for terms that contradict each other."""
        if self.downtime_limit_ms < self.downtime_ms:
            raise InvalidInput.field(
                "/downtime_limit_ms",
                "below_downtime",
                f"The longest pause ({self.downtime_limit_ms} ms) has to be at least the first one ({self.downtime_ms} ms).",
            )


def check_migration(*, actor: Actor, instance_id: uuid.UUID, destination: Host | None = None) -> MigrationCheck:
    """Return what `migrate_instance` would meet now, every obstacle of it; nothing is taken.

    Raises NotFound, PermissionDenied. Refusals are answers, not errors.
    """
    return check_elsewhere(
        actor=actor,
        instance_id=instance_id,
        destination=destination,
        find_obstacles=lambda instance: live_obstacles(instance, destination, power=power_of(instance)),
        ask=lambda instance: live_request(instance, destination) if instance.kind == "vm" else None,
    )


def migrate_instance(
    *,
    actor: Actor,
    instance_id: uuid.UUID,
    destination: Host | None = None,
    terms: Terms = Terms(),
    reason: str = "",
    if_version: int | None = None,
    request_key: uuid.UUID | None = None,
) -> tuple[Migration, Operation]:
    """Order a live migration to `destination`, or to the host that suits best. Its room there is claimed now.

    Raises NotFound, PermissionDenied, VersionMismatch, OperationInProgress; NotMovable with `obstacles`; NoValidHost
    with `reasons`; InvalidInput.
    """
    terms.check()
    with transaction.atomic(durable=True):
        instance = lock_instance(
            actor=actor, instance_id=instance_id, permission="instance.migrate", if_version=if_version
        )
        return order_migration(
            actor=actor,
            instance=instance,
            destination=destination,
            terms=terms,
            reason=reason,
            request_key=request_key,
        )


def order_migration(
    *,
    actor: Actor,
    instance: Instance,
    destination: Host | None = None,
    terms: Terms = Terms(),
    reason: str = "",
    request_key: uuid.UUID | None = None,
    plan_id: uuid.UUID | None = None,
) -> tuple[Migration, Operation]:
    """`migrate_instance` for an instance whose row the caller has locked. `plan_id`: the plan that it is a step of."""
    migration_id = new_id()
    operation = submit_move(
        actor=actor,
        kind="instance_migrate",
        instance=instance,
        arguments={"migration": str(migration_id)},
        plan_id=plan_id,
        request_key=request_key,
        deadline_seconds=terms.deadline_seconds + SETTLE_SECONDS,
    )
    refuse_obstacles(
        f"{instance.name} cannot be migrated.", live_obstacles(instance, destination, power=power_of(instance))
    )
    assert instance.host is not None  # or it would be an obstacle
    host, decision = claim_elsewhere(instance, migration_id, live_request(instance, destination))
    job = MigrationJob(id=str(migration_id), destination_address=str(host.address), **_wire_terms(terms))
    migration = Migration.objects.create(
        id=migration_id,
        instance=instance,
        source=instance.host,
        destination=host,
        operation=operation,
        decision_id=decision.id,
        job=job.to_json(),
        reason=reason[:255],
        actor=actor.username,
    )
    record_move(actor=actor, action="instance.migrate", instance=instance, migration=migration)
    return migration, operation


def live_obstacles(instance: Instance, destination: Host | None, *, power: str | None) -> list[Obstacle]:
    """Return every reason that lies with the instance and its host; what other hosts lack is the ranking's to say.

    `power` is the host's last word on it.
    """
    found = []
    source = instance.host
    if instance.state != "active" or source is None:
        found.append(Obstacle("not_active", f"It is {instance.state}; only an active instance can be migrated."))
    if instance.kind != "vm":
        found.append(Obstacle("not_a_vm", "It is a container; only VMs can be migrated while they run."))
    if instance.desired_power != "running" or power != "running":
        found.append(Obstacle("not_running", f"It is {power or 'not seen yet'}; only what runs can be migrated live."))
    if source is None:
        return found
    found += place_obstacles(instance, source, destination)
    if _processor_of(instance) == HOST_PROCESSOR:
        found.append(Obstacle("host_processor", "It has its host's own processor, which no other host may have."))
    if destination is not None and str(destination.id) in older_than(source):
        found.append(
            Obstacle("older_hypervisor", f"{destination.name} has an older QEMU than {source.name}, which started it.")
        )
    return found


def live_request(instance: Instance, destination: Host | None) -> Request:
    """Return what the scheduler is asked: another host that can run the guest as it is now."""
    assert instance.host is not None
    return as_it_runs(request_elsewhere(instance, destination), instance, older_than(instance.host))


def as_it_runs(request: Request, instance: Instance, older: frozenset[str]) -> Request:
    """Return the request narrowed to hosts that can go on with what runs now: its mode, its processor, its QEMU or a newer one."""
    assert instance.host is not None
    processor = _processor_of(instance)
    return dataclasses.replace(
        request,
        forbidden_hosts=request.forbidden_hosts | older,
        virt_mode="kvm" if "kvm" in instance.host.modes else "qemu",
        cpu_models=frozenset({processor} if processor else ()),
    )


def older_than(source: Host) -> frozenset[str]:
    """Return the ids of the pool's hosts whose QEMU is older than this one's."""
    release = _release(source)
    rows = Host.objects.filter(pool=source.pool_id).only("facts")
    return frozenset(str(host.id) for host in rows if _release(host) < release)


def _processor_of(instance: Instance) -> str:
    """Return the processor that the guest sees: its flavor's, or the one that its host gives all others; "" if unknown."""
    model: str = instance.flavor.cpu_model
    return model or (str(instance.host.facts.get("cpu_model", "")) if instance.host is not None else "")


def _release(host: Host) -> tuple[int, ...]:
    """Return the version of a host's QEMU: a guest's machine is known to the release that made it, and to later ones."""
    text = str(host.facts.get("qemu_version", ""))
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _wire_terms(terms: Terms) -> dict[str, Any]:
    return {**dataclasses.asdict(terms), "deadline_seconds": float(terms.deadline_seconds)}
