"""Create 1 to N instances: placed, claimed, charged and ordered in one durable transaction, all or nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction

from compute import outbox
from compute.errors import NoAddressLeft, NoValidHost
from compute.models import Instance, Operation, Port
from compute.placement import limits
from compute.placement.place import Refused, place
from compute.scheduler.model import Policy, Request
from compute.selectors.known import ask_catalogue
from compute.services import decisions
from compute.services.addresses import take_ports
from compute.services.checks import check_tags, check_user_data
from compute.services.instances_refusal import record_refusal
from compute.services.instances_wanted import Wanted, instance_names
from compute.services.lease_terms import Lease, LeaseAsk, take_lease
from tenants import prepared
from tenants.errors import QuotaExceeded
from tenants.models import Tenant
from tenants.models.ids import new_id
from tenants.services import audit, metering, quotas, tree
from tenants.services.access import Actor, authorize


@dataclass(frozen=True, slots=True)
class Created:
    """What a create leaves, in the order of the names; `ports` by instance."""

    instances: list[Instance]
    operations: list[Operation]
    ports: dict[uuid.UUID, Port]


class _RefusedByPlacement(Exception):
    def __init__(self, refused: Refused) -> None:
        super().__init__("no candidate")
        self.refused = refused


def create_instances(
    *,
    actor: Actor,
    tenant: Tenant,
    name: str,
    flavor: str,
    image: str,
    kind: str | None = None,
    pool: str | None = None,
    keypairs: Sequence[str] = (),
    user_data: str = "",
    tags: dict[str, str] | None = None,
    group: str | None = None,
    count: int = 1,
    lease: LeaseAsk | None = None,
    request_key: uuid.UUID | None = None,
) -> Created:
    """Place, claim, charge and order `count` instances; with more than one, names get the suffixes -1 to -N.

    Flavor, image, pool and keypairs by id or name. `lease`: of each of them; None: they may stay for ever.
    Leaves instances in `building`, each with a pending operation. Raises NotFound, PermissionDenied, InvalidInput,
    NoValidHost (with `reasons`), QuotaExceeded, NoAddressLeft; of the last three nothing is left but the decision, and
    they carry `remedies` and `decision_id`.
    """
    with prepared.together():
        catalogue = ask_catalogue(flavor=flavor, image=image, pool=pool)
        authorize(actor, "instance.create", tenant)
    names = instance_names(name, count)
    wanted = Wanted.look_up(
        tenant=tenant,
        flavor=flavor,
        image=image,
        kind=kind,
        pool=pool,
        keypairs=keypairs,
        group=group,
        catalogue=catalogue,
    )
    user_data, tags = check_user_data(user_data), check_tags(tags or {})
    request, policy = wanted.request(), wanted.policy()
    taken = take_lease(actor=actor, tenant=tenant, asked=lease)
    try:
        with transaction.atomic(durable=True):
            return _create(actor, tenant, names, wanted, user_data, tags, taken, request, policy, request_key)
    except _RefusedByPlacement as error:
        refusal = record_refusal(
            actor=actor,
            tenant=tenant,
            wanted=wanted,
            name=name,
            count=count,
            code=NoValidHost.code,
            refused=error.refused,
        )
        raise NoValidHost(
            "No host can take this now. " + " ".join(refusal.decision.summary),
            reasons=refusal.decision.summary,
            tally=refusal.decision.tally,
            **refusal.data,
        ) from None
    except (QuotaExceeded, NoAddressLeft) as error:
        refusal = record_refusal(actor=actor, tenant=tenant, wanted=wanted, name=name, count=count, code=error.code)
        raise type(error)(error.detail, **error.data, **refusal.data) from None


def _create(
    actor: Actor,
    tenant: Tenant,
    names: list[str],
    wanted: Wanted,
    user_data: str,
    tags: dict[str, str],
    lease: Lease,
    request: Request,
    policy: Policy,
    request_key: uuid.UUID | None,
) -> Created:
    # Before any host's lock: what is drawn and charged below belongs to the tenants that are above this one now.
    tenant = tree.hold_at(tenant.id)
    ids = [new_id() for _ in names]
    outcome = place(consumers=ids, request=request, policy=policy, tenant_path=tenant.path)
    if isinstance(outcome, Refused):
        raise _RefusedByPlacement(outcome)
    decision_id = new_id()
    instances = [
        Instance(
            id=instance_id,
            tenant=tenant,
            name=name,
            kind=wanted.image.kind,
            pool=wanted.pool,
            host_id=outcome.hosts[instance_id],
            group=wanted.group,
            flavor=wanted.flavor,
            image=wanted.image,
            vcpus=wanted.flavor.vcpus,
            memory_mib=wanted.flavor.memory_mib,
            disk_gib=wanted.flavor.disk_gib,
            keys=wanted.keys,
            user_data=user_data,
            tags=tags,
            lease_ends_at=lease.ends_at,
            lease_action=lease.action,
            decision_id=decision_id,
            created_by=actor.username,
        )
        for instance_id, name in zip(ids, names, strict=True)
    ]
    named = list(zip(ids, names, strict=True))
    decision = decisions.placed_decision(
        decision_id=decision_id,
        tenant_id=tenant.id,
        placed=outcome,
        request=outcome.request,
        policy=policy,
        name=names[0],
        recording=wanted.pool.recording,
    )
    with prepared.together():
        prepared.insert(instances)
        operations = outbox.submit_first(
            actor=actor,
            kind="instance_create",
            target_type="instance",
            targets=named,
            tenant_id=tenant.id,
            request_key=request_key,
        )
        for instance, operation in zip(instances, operations, strict=True):
            audit.record(
                actor=actor,
                action="instance.create",
                tenant=tenant,
                target=instance,
                operation_id=operation.id,
                after={
                    "flavor": wanted.flavor.name,
                    "image": wanted.image.name,
                    "pool": wanted.pool.name,
                    **({"lease": lease.told()} if lease.ends_at else {}),
                },
            )
        metering.hold(tenant=tenant, usage=wanted.usage(), consumers=named)
        prepared.insert([decision])
        ports = take_ports(tenant_id=tenant.id, instance_ids=ids, network=wanted.network)
    # Last: the root tenant's row is shared by all of its tree and stays locked until the commit that follows.
    amounts = wanted.amounts(len(names))
    with prepared.together():
        charged = (
            quotas.charge_last(tenant=tenant, actor=actor, amounts=amounts),
            limits.charge_last(tenant=tenant, actor=actor, pool=wanted.pool, amounts=amounts),
        )
    for judge in charged:
        judge()
    return Created(instances=instances, operations=operations, ports=ports)
