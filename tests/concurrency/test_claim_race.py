"""Two claims for a host's last place: the row's lock decides. The control takes the lock away and shows the race."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import Any

import pytest
from django.db import connection, transaction

from compute.models import Allocation, Host
from compute.placement import claims
from compute.placement.claims import ClaimRefused, Seat, claim
from compute.scheduler.model import Resources
from compute.services import catalog
from tenants.services.access import system_actor
from tests.factories.compute import make_host, make_pool

pytestmark = pytest.mark.django_db(transaction=True)
ONE = Resources(vcpus=1, memory_mib=64, disk_gib=1)
CLAIMANTS = 8
ACTOR = system_actor("test")


def _claim_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """Have CLAIMANTS transactions ask `fits` on the same sums, as far as the lock lets them, and then write."""
    asked = threading.Barrier(CLAIMANTS)
    honest = claims.fits

    def slow_fits(*arguments: Any) -> Any:
        verdict = honest(*arguments)
        # Everybody who got here has read the sums; with the lock only one at a time does.
        with contextlib.suppress(threading.BrokenBarrierError):
            asked.wait(timeout=0.3)
        return verdict

    monkeypatch.setattr(claims, "fits", slow_fits)
    results: list[Exception | None] = []

    def one() -> None:
        try:
            with transaction.atomic():
                claim(wanted={uuid.uuid4(): Seat(host.id, ONE)})
            results.append(None)
        except Exception as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(CLAIMANTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def test_the_last_place_goes_to_exactly_one(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host(make_pool(), vcpus=1)
    results = _claim_at_once(host, monkeypatch)
    assert results.count(None) == 1
    assert [type(result) for result in results if result is not None] == [ClaimRefused] * (CLAIMANTS - 1)
    assert Allocation.objects.count() == 1
    host.refresh_from_db()
    assert host.used_vcpus == 1


def test_a_ratio_that_is_lowered_while_a_claim_waits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiting claim has read the pool's row before, and gets the host's row as it is after."""
    pool = make_pool(vcpu_ratio=4.0)
    host = make_host(pool, vcpus=1)
    lowered, honest = threading.Event(), catalog.arrange

    def slow_arrange(**arguments: Any) -> Any:
        lowered.set()
        time.sleep(0.5)
        return honest(**arguments)

    monkeypatch.setattr(catalog, "arrange", slow_arrange)

    def lower() -> None:
        catalog.update_pool(actor=ACTOR, pool_id=pool.id, vcpu_ratio=1.0)
        connection.close()

    lowering = threading.Thread(target=lower)
    lowering.start()
    assert lowered.wait(10)
    with pytest.raises(ClaimRefused), transaction.atomic():
        claim(wanted={uuid.uuid4(): Seat(host.id, Resources(vcpus=2, memory_mib=64, disk_gib=1))})
    lowering.join(timeout=10)
    host.refresh_from_db()
    assert (host.ceiling_vcpus, host.used_vcpus) == (1, 0)


def test_control_without_the_lock_several_pass_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that the set-up above makes a race: unlocked, the check passes for all, and only the database's own
    constraint still keeps the host from being oversold."""
    host = make_host(make_pool(), vcpus=1)
    monkeypatch.setattr(claims, "_LOCK", "")
    results = _claim_at_once(host, monkeypatch)
    refused_by_check = [result for result in results if isinstance(result, ClaimRefused)]
    stopped_by_constraint = [
        result for result in results if result is not None and "host_vcpus_never_over" in str(result)
    ]
    assert len(refused_by_check) < CLAIMANTS - 1
    assert stopped_by_constraint, "the check was passed by more than one"
    host.refresh_from_db()
    assert host.used_vcpus == 1
