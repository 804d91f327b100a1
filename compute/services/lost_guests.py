"""The guests of a lost host: in which order they come back, as what they are asked for elsewhere, and what keeps them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import cast

from django.db.models import Exists, OuterRef, QuerySet

from compute import states
from compute.models import Allocation, Host, Instance, Operation, Port
from compute.placement.place import Leaving, Refused
from compute.scheduler import explain
from compute.scheduler.model import GroupRule, Request, Resources
from compute.services.instances_wanted import cpu_models_of, numa_of, storages_of
from compute.wire import Kind


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one guest of a lost host: the host it would come back on, else why it would not."""

    instance: Instance
    host_id: uuid.UUID | None
    host_name: str = ""
    code: str = ""
    message: str = ""


def guests_of(host: Host) -> QuerySet[Instance]:
    """What holds room on the host, in the order in which it comes back."""
    rows = Instance.unscoped.filter(host=host, state__in=states.INSTANCE_HOLDS_ROOM)
    return rows.order_by("-evacuation_priority", "created_at", "id")


def loaded(rows: QuerySet[Instance]) -> QuerySet[Instance]:
    """Join what the functions below read. Annotated: `busy`, an operation is open."""
    busy = Operation.objects.filter(target_type="instance", target_id=OuterRef("pk"), state__in=states.OPERATION_OPEN)
    return rows.select_related("tenant", "flavor", "group").annotate(busy=Exists(busy))


def obstacle_of(instance: Instance, lost: Host) -> Fate | None:
    """Return what keeps the guest from coming back, other than room."""
    if instance.state in ("building", "deleting"):
        return Fate(instance, None, "", "unsettled", f"It is {instance.state}; that ends first.")
    if instance.busy:  # type: ignore[attr-defined]  # annotated by loaded
        return Fate(instance, None, "", "operation_open", "An operation on it is under way; that ends first.")
    if not storages_of_host(lost):
        return Fate(instance, None, "", "storage_not_shared", "Its disk lies on this host alone.")
    return None


def no_room(instance: Instance, refused: Refused) -> Fate:
    """Put the refusal of all hosts into words, for operators."""
    return Fate(instance, None, "", "no_valid_host", " ".join(explain.operator_summary(refused.ranking)))


def storages_of_host(host: Host) -> frozenset[str]:
    """Return the storage in which the host's guests have their disks; nothing where it lies in the host itself."""
    told = host.facts.get("shared_storage_id")
    return storages_of(host.pool) if told is None else frozenset({told} if told else ())


def request_of(instance: Instance, lost: Host, networks: frozenset[str]) -> Request:
    """Return the guest as it would be asked for today."""
    flavor, group = instance.flavor, instance.group
    return Request(
        kind=cast(Kind, instance.kind),
        resources=Resources(
            vcpus=0 if flavor.pinned else instance.vcpus,
            memory_mib=0 if flavor.hugepages_kib else instance.memory_mib,
            disk_gib=instance.disk_gib,
        ),
        pool_id=str(instance.pool_id),
        cpu_models=cpu_models_of(flavor),
        cpu_flags=frozenset(flavor.cpu_flags),
        networks=networks,
        storages=storages_of_host(lost),
        image=str(instance.image_id),
        numa=numa_of(flavor),
        group=str(group.id) if group else None,
        group_rule=cast(GroupRule, group.rule) if group else "anti_affinity",
        domain_limit=group.max_per_domain if group else None,
    )


def networks_of(ports: QuerySet[Port]) -> dict[uuid.UUID, frozenset[str]]:
    """Return instance id -> the networks that its ports are on."""
    found: dict[uuid.UUID, frozenset[str]] = {}
    for instance_id, network_id in ports.values_list("instance_id", "network_id"):
        found[instance_id] = found.get(instance_id, frozenset()) | {str(network_id)}
    return found


def leaving_of(held: Allocation) -> Leaving:
    """Return what a guest leaves behind on its host."""
    shared = Resources(held.vcpus - held.dedicated_vcpus, held.memory_mib - held.dedicated_memory_mib, held.disk_gib)
    return Leaving(held.host_id, shared, held.grant_id)
