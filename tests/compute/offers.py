"""Trying offers out: what a remedy says is done, whoever would have to, and the same create is tried again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import transaction

from compute.errors import NoAddressLeft, NoValidHost
from compute.models import Instance
from compute.placement.give_back import free_addresses, give_back
from compute.services.instances_create import create_instances
from tenants.errors import QuotaExceeded
from tenants.models import Quota, Tenant
from tenants.services.quotas import set_limit
from tests.factories.compute import make_flavor
from tests.factories.tenants import SYSTEM

REFUSALS = (NoValidHost, QuotaExceeded, NoAddressLeft)


@contextmanager
def undone() -> Iterator[None]:
    """What happens inside is rolled back; services that insist on a transaction of their own are let in."""
    atom = transaction.atomic()
    atom._from_testcase = True  # type: ignore[attr-defined]
    with atom:
        yield
        transaction.set_rollback(True)


def create(tenant: Tenant, order: dict[str, Any]) -> None:
    create_instances(actor=SYSTEM, tenant=tenant, name="web", image="tiny", **order)


def works(tenant: Tenant, order: dict[str, Any], changes: Iterable[dict[str, Any]], asked: dict[str, int]) -> bool:
    """Make the changes, whoever would have to, and return whether the create is taken then."""
    size, order = dict(asked), dict(order)
    with undone():
        for change in changes:
            match change["kind"]:
                case "less":
                    size[change["resource"]] = change["to"]
                case "fewer":
                    order["count"] = change["to"]
                case "pool":
                    order["pool"] = change["pool"]
                case "raise_quota":
                    row = Quota.unscoped.get(tenant_id=change["tenant_id"], resource=change["resource"])
                    assert row.limit is not None
                    set_limit(
                        actor=SYSTEM,
                        tenant=Tenant.objects.get(id=change["tenant_id"]),
                        resource=change["resource"],
                        limit=row.limit + change["by"],
                    )
                case "wait_for_lease":
                    for leaver in change["leases"]:
                        end(leaver["instance_id"])
                case kind:
                    raise AssertionError(kind)
        if size != asked:
            make_flavor("other", **size)
            order["flavor"] = "other"
        try:
            create(tenant, order)
        except REFUSALS:
            return False
        return True


def end(instance_id: str) -> None:
    """The books of an instance whose deletion has come to its end."""
    with transaction.atomic():
        instance = Instance.unscoped.select_for_update(no_key=True).get(id=instance_id)
        give_back(instance=instance)
        free_addresses(instance=instance)
        Instance.unscoped.filter(id=instance.id).update(state="deleted", host=None)
