"""CPUs of one's own, huge pages and NUMA cells in the ledger: claimed, kept by the database, given back, audited."""

from __future__ import annotations

import contextlib
import random
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from compute.errors import NoValidHost
from compute.models import Allocation, Decision, Flavor, Host, Instance, Operation, PinnedCpu, Pool
from compute.node.drivers.base import Never
from compute.placement import claims
from compute.placement.cells import free_cells
from compute.placement.claims import ClaimRefused, Seat, claim, release
from compute.placement.inventory import apply_inventory
from compute.placement.kept import KEPT
from compute.scheduler.model import Resources
from compute.scheduler.topology import NumaAsk
from compute.selectors.decisions import explain_decision, shortfall
from compute.selectors.invariants import check_all, run_checks
from compute.services.catalog import create_flavor
from compute.services.instances_create import create_instances
from compute.services.instances_forecast import forecast_instances
from compute.wire import HostInventory, HugePages, InstanceSpec, NumaCell
from tenants.errors import QuotaExceeded
from tenants.models import Quota, Tenant
from tests.factories.compute import make_host, make_image, make_pool
from tests.factories.nodes import play, run_to_end
from tests.factories.tenants import SYSTEM, make_actor, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

CELLS = (
    NumaCell(0, (0, 1, 2, 3), 4096, (HugePages(2048, 512, 512),), dedicated=(2, 3)),
    NumaCell(1, (4, 5, 6, 7), 4096, (HugePages(2048, 256, 256),), dedicated=(5, 6, 7)),
)


def numa_host(pool: Pool, cells: tuple[NumaCell, ...] = CELLS, **size: Any) -> Host:
    """A host that has reported these cells."""
    host = make_host(pool, **size)
    told = HostInventory(
        host.total_vcpus, host.total_memory_mib, host.total_disk_gib, ("qemu", "lxc"), "", 2, "", "", "", "", numa=cells
    )
    with transaction.atomic():
        apply_inventory(
            host=Host.objects.select_for_update(of=("self",)).select_related("pool").get(id=host.id), reported=told
        )
    host.refresh_from_db()
    return host


@pytest.fixture
def pool() -> Pool:
    return make_pool("lab")


@pytest.fixture
def tenant(pool: Pool) -> Tenant:
    make_image("tiny")
    return make_tenant("acme")


def flavor(name: str, **asked: Any) -> Flavor:
    size = {"vcpus": 2, "memory_mib": 512, "disk_gib": 1, **asked}
    return create_flavor(actor=make_actor(is_operator=True), name=name, **size)


def create(tenant: Tenant, flavor: str, count: int = 1) -> list[Instance]:
    return create_instances(
        actor=SYSTEM, tenant=tenant, name="web", flavor=flavor, image="tiny", pool="lab", count=count
    ).instances


def cells_of(instance: Instance) -> Any:
    return Allocation.objects.get(consumer_id=instance.id).cells


def test_a_pinned_guest_has_its_cpus_to_itself_and_takes_nothing_of_the_slice(pool: Pool, tenant: Tenant) -> None:
    host = numa_host(pool)
    flavor("own", pinned=True)
    (instance,) = create(tenant, "own")
    assert cells_of(instance) == [{"cell": 0, "vcpus": 2, "memory_mib": 512, "page_kib": 0, "cpus": [2, 3]}]
    assert set(PinnedCpu.objects.values_list("host_id", "cpu")) == {(host.id, 2), (host.id, 3)}
    host.refresh_from_db()
    assert (host.used_vcpus, host.used_memory_mib, host.used_instances) == (0, 512, 1)
    assert host.numa_used == [{"cell": 0, "cpus": [2, 3], "memory_mib": 512, "pages": {}}]
    assert Quota.unscoped.get(tenant=tenant, resource="vcpus").used == 2
    assert check_all() == []


def test_huge_pages_are_taken_of_one_cell_and_not_of_the_shared_memory(pool: Pool, tenant: Tenant) -> None:
    host = numa_host(pool)
    flavor("huge", hugepages_kib=2048, kind="vm")
    first, second, third = (create(tenant, "huge")[0] for _ in range(3))
    assert [cells_of(one)[0]["cell"] for one in (first, second, third)] == [1, 0, 0]
    host.refresh_from_db()
    assert (host.used_vcpus, host.used_memory_mib) == (6, 0)
    assert Quota.unscoped.get(tenant=tenant, resource="memory_mib").used == 3 * 512
    assert check_all() == []
    with pytest.raises(
        NoValidHost, match=r"1 lacks huge pages .largest room 0 pages of 2048 KiB in one cell, 256 asked"
    ):
        create(tenant, "huge")


def test_a_guest_of_two_cells_lies_in_two(pool: Pool, tenant: Tenant) -> None:
    numa_host(pool)
    flavor("wide", vcpus=4, memory_mib=1024, numa_nodes=2, pinned=True, kind="vm")
    (instance,) = create(tenant, "wide")
    assert [(part["cell"], part["cpus"]) for part in cells_of(instance)] == [(0, [2, 3]), (1, [5, 6])]
    with pytest.raises(NoValidHost, match="largest room 0 CPU in each of 2 cells, 2 asked"):
        create(tenant, "wide")
    assert check_all() == []


def test_what_a_guest_had_goes_to_the_next_one(pool: Pool, tenant: Tenant) -> None:
    host = numa_host(pool)
    flavor("own", vcpus=3, memory_mib=1024, hugepages_kib=2048, pinned=True, kind="vm")
    with pytest.raises(NoValidHost, match="largest room 0 cells with all of it, 1 asked"):
        create(tenant, "own")
    flavor("two", pinned=True)
    (instance,) = create(tenant, "two")
    with transaction.atomic():
        assert release(consumer_type="instance", consumer_id=instance.id)
    assert not PinnedCpu.objects.exists()
    host.refresh_from_db()
    assert host.numa_used == []
    assert (host.used_vcpus, host.used_memory_mib, host.used_disk_gib) == (0, 0, 0)


def test_a_refusal_is_kept_with_its_numbers_and_names_no_host_to_the_tenant(pool: Pool, tenant: Tenant) -> None:
    host = numa_host(pool)
    flavor("four", vcpus=4, pinned=True)
    with pytest.raises(NoValidHost) as refused:
        create(tenant, "four")
    assert "1 lacks CPUs to give away (largest room 3 CPU in one cell, 4 asked)" in str(refused.value)
    assert host.name not in str(refused.value.data)
    decision = Decision.unscoped.get(outcome="refused")
    explained = explain_decision(actor=make_actor(is_operator=True), decision=decision)
    (verdict,) = explained.closest
    assert verdict.failing == ("dedicated_cpus",)
    assert shortfall(verdict, decision.request) == {
        "asked": 4, "free": 3, "margin": -1, "unit": "CPU in one cell"
    }  # fmt: skip


def test_cpus_of_its_own_come_back_with_the_lease_of_a_guest_that_has_them(pool: Pool, tenant: Tenant) -> None:
    numa_host(pool)
    flavor("own", pinned=True)
    (first, second) = create(tenant, "own", count=2)
    leases = {first.id: timedelta(minutes=20), second.id: timedelta(minutes=10)}
    for instance_id, length in leases.items():
        Instance.unscoped.filter(id=instance_id).update(lease_ends_at=Now() + length, lease_action="delete")
    with pytest.raises(NoValidHost) as refused:
        create(tenant, "own")
    (wait,) = [one for one in refused.value.data["remedies"] if one["changes"][0]["kind"] == "wait_for_lease"]
    assert [leaver["instance_id"] for leaver in wait["changes"][0]["leases"]] == [str(second.id)]
    with transaction.atomic():
        release(consumer_type="instance", consumer_id=second.id)
    create(tenant, "own")


def test_a_batch_of_pinned_guests_is_planned_as_a_whole(pool: Pool, tenant: Tenant) -> None:
    numa_host(pool)
    flavor("own", pinned=True)
    assert len({tuple(cells_of(one)[0]["cpus"]) for one in create(tenant, "own", count=2)}) == 2
    with pytest.raises(NoValidHost):
        create(tenant, "own")
    assert check_all() == []


def test_a_dry_run_counts_cpus_as_the_create_does(pool: Pool, tenant: Tenant) -> None:
    numa_host(pool)
    flavor("own", pinned=True)
    asked: Any = {"actor": SYSTEM, "tenant": tenant, "name": "web", "flavor": "own", "image": "tiny"}
    forecast = forecast_instances(**asked)
    assert (forecast.fits, forecast.how_many) == (True, 2)
    assert {line["resource"]: line["asked"] for line in forecast.quota}["vcpus"] == 2
    assert not forecast_instances(**asked, count=3).fits


def test_a_pinned_guest_counts_against_its_tenants_quota(pool: Pool) -> None:
    numa_host(pool)
    make_image("tiny")
    flavor("own", pinned=True)
    poor = make_tenant(limits={"vcpus": 1})
    with pytest.raises(QuotaExceeded):
        create(poor, "own")
    assert check_all() == []
    assert not PinnedCpu.objects.exists()


def test_a_host_without_cells_takes_no_guest_that_asks_for_one(pool: Pool, tenant: Tenant) -> None:
    make_host(pool)
    flavor("near", numa_nodes=1)
    with pytest.raises(NoValidHost, match="1 lacks memory in a NUMA cell"):
        create(tenant, "near")


def test_the_database_itself_refuses_a_second_owner_of_a_cpu(pool: Pool, tenant: Tenant) -> None:
    host = numa_host(pool)
    flavor("own", pinned=True)
    (instance,) = create(tenant, "own")
    row = Allocation.objects.get(consumer_id=instance.id)
    with pytest.raises(IntegrityError, match="cpu_pinned_once"), transaction.atomic():
        PinnedCpu.objects.create(host=host, cpu=2, allocation=row)


def _forget_a_cpu(host: Host) -> None:
    PinnedCpu.objects.filter(cpu=2).delete()


def _forget_the_sums(host: Host) -> None:
    Host.objects.filter(id=host.id).update(numa_used=[])


def _fewer_pages(host: Host) -> None:
    told = host.numa_used
    told[0]["pages"] = {"2048": 1}
    Host.objects.filter(id=host.id).update(numa_used=told)


def _share_what_is_dedicated(host: Host) -> None:
    Allocation.objects.update(dedicated_memory_mib=0)


@pytest.mark.parametrize("tamper", [_forget_a_cpu, _forget_the_sums, _fewer_pages, _share_what_is_dedicated])
def test_a_false_book_of_cells_is_found(pool: Pool, tenant: Tenant, tamper: Any) -> None:
    host = numa_host(pool)
    flavor("own", pinned=True, hugepages_kib=2048, kind="vm", vcpus=2)
    create(tenant, "own")
    assert check_all() == []
    host.refresh_from_db()
    tamper(host)
    assert any("NUMA cell" in result.check.title for result in run_checks() if result.violations)


def test_the_host_is_told_its_guests_cells_and_refuses_what_is_not_its_own(
    pool: Pool, tenant: Tenant, tmp_path: Path
) -> None:
    host = numa_host(pool)
    node = play(host, tmp_path)
    node.driver.host.numa = CELLS
    flavor("own", pinned=True)
    (instance,) = create(tenant, "own")
    assert run_to_end(Operation.objects.get(target_id=instance.id).id, node).state == "succeeded"
    spec = InstanceSpec.from_json(
        next(call for call in node.calls if call.method == "instance.start").arguments["spec"]
    )
    assert [(part.cell, part.cpus) for part in spec.cells] == [(0, (2, 3))]
    node.driver.host.numa = (CELLS[1],)
    with pytest.raises(Never, match="no NUMA cell 0"):
        node.driver.start(spec, token=9)


def test_the_kept_hosts_see_what_is_left_of_each_cell(pool: Pool, tenant: Tenant) -> None:
    numa_host(pool)
    flavor("own", pinned=True)
    KEPT.look(pool.id)
    create(tenant, "own")
    (host,) = KEPT.look(pool.id).hosts
    assert [cell.cpus for cell in host.cells] == [(), (5, 6, 7)]
    assert [(cell.shared_cpus, cell.memory_mib) for cell in host.cells] == [(2, 4096 - 1024 - 512), (1, 4096 - 512)]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_claimed_and_given_back_the_books_are_true(pool: Pool, tenant: Tenant, seed: int) -> None:
    dice = random.Random(seed)
    numa_host(pool, vcpus=64, memory_mib=65_536)
    names = []
    for number in range(5):
        nodes = dice.choice([1, 1, 2])
        asked = {"numa_nodes": nodes, "vcpus": 2 * nodes, "memory_mib": dice.choice([128, 512]) * nodes}
        asked |= {"pinned": dice.random() < 0.6, "hugepages_kib": dice.choice([0, 2048]), "kind": "vm"}
        names.append(flavor(f"f{number}", **asked).name)
    alive: list[Instance] = []
    for _ in range(25):
        if alive and dice.random() < 0.4:
            gone = alive.pop(dice.randrange(len(alive)))
            with transaction.atomic():
                release(consumer_type="instance", consumer_id=gone.id)
            Instance.unscoped.filter(id=gone.id).update(state="failed", host=None)
        else:
            try:
                alive += create(tenant, dice.choice(names))
            except NoValidHost:
                continue
        assert not [one for one in run_checks() if "NUMA" in one.check.title and one.violations]
        owned = [
            cpu
            for row in Allocation.objects.filter(cells__isnull=False)
            for part in row.cells or ()
            for cpu in part["cpus"]
        ]
        assert len(owned) == len(set(owned))
    assert alive


@pytest.mark.parametrize("used", ["[]", '[{"cell": 0, "cpus": [2], "memory_mib": 9000, "pages": {"2048": 600}}]'])
def test_a_cell_that_shrank_below_its_use_has_nothing_left(used: str) -> None:
    facts = '{"numa": [{"id": 0, "cpus": [0, 2], "dedicated": [2], "memory_mib": 4096, "huge_pages": []}]}'
    (cell,) = free_cells(facts, used)
    assert cell.cpus == ((2,) if used == "[]" else ())
    assert (cell.memory_mib < 0) == (used != "[]")


CLAIMANTS = 6
PINNED = NumaAsk(1, 3, 256, pinned=True)


def _claim_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """Have transactions choose CPUs on the same sums, as far as the lock lets them, and then write."""
    asked = threading.Barrier(CLAIMANTS)
    honest = claims._place_cells

    def slow(*arguments: Any) -> Any:
        found = honest(*arguments)
        with contextlib.suppress(threading.BrokenBarrierError):
            asked.wait(timeout=0.4)
        return found

    monkeypatch.setattr(claims, "_place_cells", slow)
    results: list[Exception | None] = []

    def one() -> None:
        try:
            with transaction.atomic():
                claim(wanted={uuid.uuid4(): Seat(host.id, Resources(0, 256, 1), numa=PINNED)})
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


def test_the_last_cpus_go_to_exactly_one(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    host = numa_host(pool)  # one cell has three CPUs to give away, the other has two
    results = _claim_at_once(host, monkeypatch)
    assert results.count(None) == 1
    assert [type(one) for one in results if one is not None] == [ClaimRefused] * (CLAIMANTS - 1)
    assert PinnedCpu.objects.count() == 3


def test_control_without_the_lock_several_choose_the_same_cpus(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that the set-up above makes a race: unlocked, only the database's own constraint keeps the CPUs apart."""
    host = numa_host(pool)
    monkeypatch.setattr(claims, "_LOCK", "")
    results = _claim_at_once(host, monkeypatch)
    stopped = [one for one in results if one is not None and "cpu_pinned_once" in str(one)]
    assert stopped, "more than one chose them"
    assert PinnedCpu.objects.count() == 3
