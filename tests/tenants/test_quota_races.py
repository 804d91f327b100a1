"""services/quotas.py under real concurrency: real commits, threads with connections of their own, and a control."""

from __future__ import annotations

import functools
import random
import time

import pytest
from django.db import connection, transaction

from tenants.errors import QuotaExceeded
from tenants.models import Quota
from tenants.services import quotas
from tests.factories.tenants import SYSTEM, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

# What somebody would write who did not think of others: read, compare, wait a little, write.
READ_THEN_WRITE = """
    UPDATE tenants_quota SET used = %(new)s WHERE tenant_id = %(tenant)s AND resource = 'instances'
"""


def used(tenant, resource="instances"):
    return Quota.unscoped.get(tenant=tenant, resource=resource).used


def take(tenant, amounts=None):
    with transaction.atomic(durable=True):
        quotas.charge(tenant=tenant, amounts=amounts or {"instances": 1})
    return "taken"


def careless_charge(*, tenant, amounts):
    """The control: the same contract for one level, checked by reading first."""
    row = Quota.unscoped.get(tenant=tenant, resource="instances")
    if row.used + amounts["instances"] > row.limit:
        raise QuotaExceeded
    time.sleep(0.05)
    with connection.cursor() as cursor:
        cursor.execute(READ_THEN_WRITE, {"new": row.used + amounts["instances"], "tenant": tenant.id})


def test_control_reading_before_writing_sells_more_than_there_is(at_once, monkeypatch):
    """Shows that the set-up below can lose: without the conditional UPDATE more is promised than counted."""
    tenant = make_tenant(limits={"instances": 4})
    monkeypatch.setattr(quotas, "charge", careless_charge)
    results = at_once(*[functools.partial(take, tenant)] * 12)
    assert results.count("taken") > 4
    assert used(tenant) < results.count("taken")


def test_exactly_the_quota_is_sold(at_once):
    """F40 on one level of a tree: the limit stands at the root, the buyers in different leaves."""
    root = make_tenant(limits={"instances": 10})
    leaves = [make_tenant(parent=root) for _ in range(4)]
    results = at_once(*[functools.partial(take, leaves[n % 4]) for n in range(32)])
    assert results.count("taken") == 10
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 22
    assert used(root) == 10
    assert sum(used(leaf) for leaf in leaves) == 10


def test_resources_asked_for_in_any_order_do_not_deadlock(at_once):
    root = make_tenant(limits={"instances": 1000})
    leaves = [make_tenant(parent=make_tenant(parent=root)) for _ in range(3)]

    def churn(seed):
        dice = random.Random(seed)
        for _ in range(15):
            resources = ["instances", "vcpus", "memory_mib", "disk_gib"]
            dice.shuffle(resources)
            leaf = dice.choice(leaves)
            with transaction.atomic():
                quotas.charge(tenant=leaf, amounts=dict.fromkeys(resources, 1))
            dice.shuffle(resources)
            with transaction.atomic():
                quotas.release(tenant=leaf, amounts=dict.fromkeys(resources, 1))
        return "done"

    assert at_once(*[functools.partial(churn, seed) for seed in range(8)]) == ["done"] * 8
    assert not Quota.unscoped.filter(resource__in=["instances", "vcpus", "memory_mib", "disk_gib"], used__gt=0).exists()


def test_limit_lowered_while_charges_run_admits_none_afterwards(at_once):
    """F43: whatever the order, use never grows once the lower limit is committed, and the row stays true."""
    tenant = make_tenant(limits={"instances": 40})

    def lower():
        time.sleep(0.02)
        quotas.set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=3)
        return used(tenant)

    def take_some():
        taken = 0
        for _ in range(5):
            try:
                take(tenant)
                taken += 1
            except QuotaExceeded:
                break
        return taken

    lowered, *taken = at_once(lower, *[take_some] * 8)
    assert used(tenant) == sum(taken)
    assert used(tenant) <= max(lowered, 3)


def test_refused_charge_frees_its_rows_while_its_transaction_goes_on(at_once):
    root = make_tenant(limits={"instances": 0})
    leaf = make_tenant(parent=root)

    def refused_then_slow():
        with transaction.atomic():
            with pytest.raises(QuotaExceeded):
                quotas.charge(tenant=leaf, amounts={"instances": 1, "vcpus": 1})
            time.sleep(1.5)
        return None

    def quick():
        time.sleep(0.3)
        started = time.monotonic()
        take(leaf, {"vcpus": 1})
        return time.monotonic() - started

    _, waited = at_once(refused_then_slow, quick)
    assert waited < 0.8


def test_two_releases_at_once_never_go_below_zero(at_once):
    tenant = make_tenant()
    take(tenant)

    def give():
        with transaction.atomic():
            quotas.release(tenant=tenant, amounts={"instances": 1})
        return "given"

    results = at_once(*[give] * 6)
    assert results.count("given") == 1
    assert used(tenant) == 0
