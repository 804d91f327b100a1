"""A wait that is offered is the earliest that does, and names as few instances as do: by the real services."""

from __future__ import annotations

import contextlib
import os
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import event, given, settings
from hypothesis import strategies as st

from compute.errors import NoValidHost, PromiseNotPlaceable
from compute.models import Flavor, Instance, Pool
from compute.services.grants import Terms, create_grant
from compute.services.groups import create_group
from compute.services.instances_create import create_instances
from tenants.errors import Conflict
from tenants.models import Tenant
from tenants.services.quotas import set_limit
from tests.compute.offers import REFUSALS, create, end, undone, works
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_tenant
from tests.scheduler.strategies import counted

hosts = st.fixed_dictionaries({"vcpus": st.integers(2, 6), "memory_mib": st.integers(2, 6).map(lambda n: n * 100)})
asks = st.fixed_dictionaries({"vcpus": st.integers(1, 3), "memory_mib": st.integers(1, 3).map(lambda n: n * 100)})
guests = st.fixed_dictionaries(
    {
        "flavor": st.sampled_from(["small", "broad", "tall"]),
        "own": st.booleans(),
        "minutes": st.sampled_from([5, 5, 10, 20, 30, None]),
        "grouped": st.booleans(),
    }
)
clouds = st.fixed_dictionaries(
    {
        "hosts": st.lists(hosts, min_size=1, max_size=3),
        "guests": st.lists(guests, min_size=3, max_size=9),
        "asked": asks,
        "count": st.sampled_from([1, 1, 1, 2]),
        "limits": st.dictionaries(st.sampled_from(["instances", "vcpus"]), st.integers(0, 6), max_size=2),
        "promised": st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans()) | st.none(),
        "rule": st.sampled_from([None, None, "anti_affinity", "soft_affinity"]),
    }
)


def _build(cloud: dict[str, Any]) -> tuple[Tenant, dict[str, Any]]:
    """Make the cloud; return who creates, and what."""
    make_image("tiny")
    pool = make_pool("lab", cidr="10.1.0.0/20")
    for number, size in enumerate(cloud["hosts"]):
        made = make_host(pool, **size, disk_gib=100)
        type(made).objects.filter(id=made.id).update(failure_domain=f"rack-{number % 2}")
    make_flavor("small", vcpus=1, memory_mib=100)
    make_flavor("broad", vcpus=2, memory_mib=100)
    make_flavor("tall", vcpus=1, memory_mib=250)
    make_flavor("asked", **cloud["asked"])
    root = make_tenant("root")
    leaf, sibling = make_tenant("leaf", parent=root), make_tenant("sibling", parent=root)
    if cloud["promised"] is not None:
        _promise(pool, root, leaf, sibling, cloud["promised"])
    if cloud["rule"] is not None:
        create_group(actor=SYSTEM, tenant=leaf, name="group", rule=cloud["rule"], max_per_domain=2)
    now = timezone.now()
    for number, guest in enumerate(cloud["guests"]):
        grouped = guest["grouped"] and guest["own"] and cloud["rule"] is not None
        with contextlib.suppress(NoValidHost):
            (row,) = create_instances(
                actor=SYSTEM,
                tenant=leaf if guest["own"] else sibling,
                name=f"guest-{number}",
                flavor=guest["flavor"],
                image="tiny",
                group="group" if grouped else None,
            ).instances
            if guest["minutes"] is not None:
                ends_at = now + timedelta(minutes=guest["minutes"])
                Instance.unscoped.filter(id=row.id).update(lease_ends_at=ends_at, lease_action="delete")
    for resource, limit in cloud["limits"].items():
        with contextlib.suppress(Conflict):
            set_limit(actor=SYSTEM, tenant=root, resource=resource, limit=limit)
    order = {"flavor": "asked", "pool": pool.name, "count": cloud["count"]}
    return leaf, order | ({"group": "group"} if cloud["rule"] is not None else {})


def _promise(pool: Pool, root: Tenant, leaf: Tenant, sibling: Tenant, promised: tuple[int, int, bool]) -> None:
    units, below, expandable = promised
    unit = Flavor.objects.get(name="broad")
    with contextlib.suppress(PromiseNotPlaceable, Conflict):
        create_grant(actor=SYSTEM, tenant=root, pool=pool, flavor=unit, terms=Terms(units=units))
        for tenant in (leaf, sibling):
            terms = Terms(units=below, expandable=expandable)
            create_grant(actor=SYSTEM, tenant=tenant, pool=pool, flavor=None, terms=terms)


def _fits_without(tenant: Tenant, order: dict[str, Any], instance_ids: list[str]) -> bool:
    with undone():
        for instance_id in instance_ids:
            end(instance_id)
        try:
            create(tenant, order)
        except REFUSALS:
            return False
        return True


def _earliest(tenant: Tenant, order: dict[str, Any]) -> datetime | None:
    """Try one end of a lease after the other."""
    rows = list(Instance.unscoped.filter(lease_action="delete").order_by("lease_ends_at"))
    for moment in sorted({row.lease_ends_at for row in rows if row.lease_ends_at is not None}):
        gone = [str(row.id) for row in rows if row.lease_ends_at is not None and row.lease_ends_at <= moment]
        if _fits_without(tenant, order, gone):
            return moment
    return None


@pytest.mark.django_db
@settings(counted, max_examples=max(10, int(os.environ.get("CENOTE_TEST_EXAMPLES", "80")) // 4))
@given(clouds)
def test_a_wait_is_the_earliest_that_does_and_names_no_instance_too_many(cloud: dict[str, Any]) -> None:
    with undone():
        tenant, order = _build(cloud)
        try:
            create(tenant, order)
        except REFUSALS as error:
            refused = error
        else:
            return
        event(f"{refused.code}, promised {cloud['promised'] is not None}, rule {cloud['rule']}")
        waits = [one["changes"] for one in refused.data["remedies"] if one["changes"][0]["kind"] == "wait_for_lease"]
        alone = [changes[0] for changes in waits if len(changes) == 1]
        expected = _earliest(tenant, order)
        event(f"a wait alone: {expected is not None}, with other changes: {len(waits) > len(alone)}")
        assert [datetime.fromisoformat(wait["ends_at"]) for wait in alone] == ([expected] if expected else [])
        for wait in alone:
            named = [leaver["instance_id"] for leaver in wait["leases"]]
            assert _fits_without(tenant, order, named)
            for left_out in named:
                assert not _fits_without(tenant, order, [one for one in named if one != left_out])
        asked = {**cloud["asked"], "disk_gib": 1}
        for changes in waits:
            assert works(tenant, order, changes, asked), changes
            for left in range(len(changes) if len(changes) > 1 else 0):
                rest = [change for at, change in enumerate(changes) if at != left]
                assert not works(tenant, order, rest, asked), (changes, rest)
