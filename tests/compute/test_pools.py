"""Changing a pool's ratio and its policy for host losses."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, transaction

from compute.models import Host, Pool
from compute.placement.promises import lock_hosts
from compute.services.catalog import update_pool
from tenants.errors import VersionMismatch
from tests.factories.compute import make_host, make_pool
from tests.factories.tenants import SYSTEM

pytestmark = pytest.mark.django_db(transaction=True)


def test_ceilings_follow_the_ratio_that_holds_when_the_hosts_are_locked() -> None:
    """Another change of the pool that commits while one waits must be in what the waiting one works out."""
    pool = make_pool(vcpu_ratio=4.0)
    host = make_host(pool, vcpus=8)

    def lower_losses() -> None:
        update_pool(actor=SYSTEM, pool_id=pool.id, host_losses=0)
        connection.close()

    waiting = threading.Thread(target=lower_losses)
    with transaction.atomic():
        lock_hosts(pool_id=pool.id)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        Pool.objects.filter(id=pool.id).update(vcpu_ratio=2.0)
    waiting.join(10)
    assert Host.objects.get(id=host.id).ceiling_vcpus == 16
    assert (Pool.objects.get().vcpu_ratio, Pool.objects.get().host_losses) == (2.0, 0)


def test_a_change_of_an_older_version_is_refused() -> None:
    pool = make_pool()
    update_pool(actor=SYSTEM, pool_id=pool.id, vcpu_ratio=2, if_version=1)
    with pytest.raises(VersionMismatch):
        update_pool(actor=SYSTEM, pool_id=pool.id, vcpu_ratio=3, if_version=1)
    assert Pool.objects.get().vcpu_ratio == 2
