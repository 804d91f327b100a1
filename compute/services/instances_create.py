"""Create 1 to N instances: placed, claimed, charged and ordered in one durable transaction, all or nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from django.db import transaction

from compute import outbox
from compute.errors import InvalidState, NoValidHost
from compute.models import Flavor, Image, Instance, Network, Operation, Pool
from compute.placement.give_back import quota_amounts
from compute.placement.place import Refused, place
from compute.scheduler.model import Policy, Request, Resources
from compute.selectors import lookup
from compute.services import decisions
from compute.services.addresses import take_port
from compute.services.checks import check_name, check_tags, check_user_data
from compute.wire import Kind
from tenants.errors import InvalidInput, NotFound
from tenants.models import Tenant
from tenants.models.ids import new_id
from tenants.services import audit, quotas
from tenants.services.access import Actor, authorize

COUNT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Created:
    """What a create leaves, in the order of the names."""

    instances: list[Instance]
    operations: list[Operation]


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
    count: int = 1,
    request_key: uuid.UUID | None = None,
) -> Created:
    """Place, claim, charge and order `count` instances; with more than one, names get the suffixes -1 to -N.

    Flavor, image, pool and keypairs by id or name. Leaves instances in `building`, each with a pending operation.
    Raises NotFound, PermissionDenied, InvalidInput, NoValidHost (with `reasons`, `remedies`, `decision_id`),
    QuotaExceeded, NoAddressLeft; in all of these nothing is left but, for NoValidHost, the decision.
    """
    authorize(actor, "instance.create", tenant)
    if not isinstance(count, int) or not 1 <= count <= COUNT_LIMIT:
        raise InvalidInput.field("/count", "invalid_count", f"Count is a whole number from 1 to {COUNT_LIMIT}.")
    names = [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
    for candidate in names:
        check_name(candidate)
    wanted = _Wanted.look_up(tenant=tenant, flavor=flavor, image=image, kind=kind, pool=pool, keypairs=keypairs)
    user_data, tags = check_user_data(user_data), check_tags(tags or {})
    request = Request(
        kind=cast(Kind, wanted.image.kind),
        resources=Resources(
            vcpus=wanted.flavor.vcpus, memory_mib=wanted.flavor.memory_mib, disk_gib=wanted.flavor.disk_gib
        ),
        pool_id=str(wanted.pool.id),
    )
    policy = Policy(name=wanted.pool.policy)
    try:
        with transaction.atomic(durable=True):
            return _create(actor, tenant, names, wanted, user_data, tags, request, policy, request_key)
    except _RefusedByPlacement as error:
        with transaction.atomic(durable=True):
            decision = decisions.record_refused(
                tenant_id=tenant.id,
                refused=error.refused,
                request=request,
                policy=policy,
                name=name,
                count=len(names),
            )
        raise NoValidHost(
            "No host can take this now. " + " ".join(decision.summary),
            reasons=decision.summary,
            remedies=decision.remedies,
            tally=decision.tally,
            decision_id=str(decision.id),
        ) from None


@dataclass(frozen=True, slots=True)
class _Wanted:
    flavor: Flavor
    image: Image
    pool: Pool
    network: Network
    keys: list[dict[str, str]]

    @classmethod
    def look_up(
        cls,
        *,
        tenant: Tenant,
        flavor: str,
        image: str,
        kind: str | None,
        pool: str | None,
        keypairs: Sequence[str],
    ) -> _Wanted:
        """Turn names and ids into rows; a wrong one is told with its field."""
        found_flavor = _or_invalid("/flavor", lambda: lookup.find_flavor(flavor))
        found_image = _or_invalid("/image", lambda: lookup.find_image(image))
        if kind is not None and kind != found_image.kind:
            raise InvalidInput.field(
                "/kind", "kind_mismatch", f"The image {found_image.name} is for a {found_image.kind}."
            )
        if found_flavor.kind and found_flavor.kind != found_image.kind:
            raise InvalidInput.field(
                "/flavor", "kind_mismatch", f"The flavor {found_flavor.name} is for a {found_flavor.kind}."
            )
        if found_flavor.disk_gib < found_image.virtual_size_gib:
            raise InvalidInput.field(
                "/flavor",
                "disk_too_small",
                f"The image needs {found_image.virtual_size_gib} GiB of disk, the flavor has {found_flavor.disk_gib}.",
            )
        found_pool = _or_invalid("/pool", lambda: lookup.find_pool(pool)) if pool else _only_pool()
        network = Network.objects.filter(pool=found_pool, tenant=None).order_by("created_at").first()
        if network is None:
            raise InvalidState(f"The pool {found_pool.name} has no network yet.", state="no network")
        keys = []
        for index, reference in enumerate(keypairs):
            pair = _or_invalid(
                f"/keypairs/{index}", lambda ref=reference: lookup.find_keypair(ref, tenant_id=tenant.id)
            )
            keys.append({"name": pair.name, "public_key": pair.public_key})
        return cls(flavor=found_flavor, image=found_image, pool=found_pool, network=network, keys=keys)


def _only_pool() -> Pool:
    pools = list(Pool.objects.all()[:2])
    if not pools:
        raise InvalidState("The cloud has no pool yet.", state="no pool")
    if len(pools) > 1:
        raise InvalidInput.field("/pool", "required", "There is more than one pool: name one.")
    return pools[0]


def _or_invalid(pointer: str, find: Any) -> Any:
    """A wrong name in a body is a wrong field (400 with a pointer), not a missing page."""
    try:
        return find()
    except NotFound as error:
        raise InvalidInput.field(pointer, "not_found", error.detail)


def _create(
    actor: Actor,
    tenant: Tenant,
    names: list[str],
    wanted: _Wanted,
    user_data: str,
    tags: dict[str, str],
    request: Request,
    policy: Policy,
    request_key: uuid.UUID | None,
) -> Created:
    ids = [new_id() for _ in names]
    outcome = place(consumers=ids, request=request, policy=policy)
    if isinstance(outcome, Refused):
        raise _RefusedByPlacement(outcome)
    instances: list[Instance] = []
    operations: list[Operation] = []
    for instance_id, name in zip(ids, names, strict=True):
        instance = Instance.unscoped.create(
            id=instance_id,
            tenant=tenant,
            name=name,
            kind=wanted.image.kind,
            pool=wanted.pool,
            host_id=outcome.hosts[instance_id],
            flavor=wanted.flavor,
            image=wanted.image,
            vcpus=wanted.flavor.vcpus,
            memory_mib=wanted.flavor.memory_mib,
            disk_gib=wanted.flavor.disk_gib,
            keys=wanted.keys,
            user_data=user_data,
            tags=tags,
            created_by=actor.username,
        )
        take_port(instance=instance, network=wanted.network)
        operation = outbox.submit(
            actor=actor,
            kind="instance_create",
            target_type="instance",
            target_id=instance.id,
            target_name=name,
            tenant_id=tenant.id,
            request_key=request_key,
        )
        audit.record(
            actor=actor,
            action="instance.create",
            tenant=tenant,
            target=instance,
            operation_id=operation.id,
            after={"flavor": wanted.flavor.name, "image": wanted.image.name, "pool": wanted.pool.name},
        )
        instances.append(instance)
        operations.append(operation)
    decisions.record_placed(tenant_id=tenant.id, placed=outcome, request=request, policy=policy, name=names[0])
    # Last: the root tenant's row is shared by all of its tree and stays locked until the commit that follows.
    quotas.charge(
        tenant=tenant,
        actor=actor,
        amounts=quota_amounts(
            vcpus=wanted.flavor.vcpus,
            memory_mib=wanted.flavor.memory_mib,
            disk_gib=wanted.flavor.disk_gib,
            count=len(names),
        ),
    )
    return Created(instances=instances, operations=operations)
