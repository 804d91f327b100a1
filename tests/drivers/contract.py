"""The driver contract as tests. Each driver's test class inherits `DriverContract` and brings three fixtures:

`driver`, opened on a host without Cenote's domains; `spec`, an instance that this host can run; and `reopen`, which opens
another driver of the same host, as a node worker that was restarted does.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable

import pytest

from compute.node.drivers.base import Driver, Never
from compute.wire import DomainReport, InstanceSpec, TenantShares, partition_name
from tests.drivers.specs import PARENT, TENANT


def find_domain(driver: Driver, instance_id: str) -> DomainReport | None:
    """Return the report on this instance's domain, or None."""
    found = [domain for domain in driver.list_domains() if domain.instance_id == instance_id]
    assert len(found) <= 1
    return found[0] if found else None


def partition_shares(driver: Driver) -> dict[tuple[str, ...], int]:
    """Return what each partition of the host weighs."""
    return {seen.path: seen.cpu_shares for seen in driver.list_partitions()}


def resized(spec: InstanceSpec, *, memory_mib: int, size_gib: int | None = None) -> InstanceSpec:
    """Return the spec with another size."""
    disk = dataclasses.replace(spec.disk, size_gib=size_gib or spec.disk.size_gib)
    return dataclasses.replace(spec, memory_mib=memory_mib, disk=disk)


OUTER = (partition_name(PARENT),)
INNER = (*OUTER, partition_name(TENANT))


class DriverContract:
    """What every driver must keep."""

    graceful_seconds = 0.0

    def test_prepare_leaves_a_disk_and_no_domain(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        assert spec.id in driver.list_disks()
        assert find_domain(driver, spec.id) is None

    def test_prepare_twice_is_prepare_once(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.prepare(spec)
        assert driver.list_disks().count(spec.id) == 1

    def test_start_runs_the_instance_and_reports_it(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        assert driver.start(spec, token=7) == "running"
        domain = find_domain(driver, spec.id)
        assert domain is not None
        assert (domain.uuid, domain.power, domain.kind, domain.token) == (spec.id, "running", spec.kind, 7)

    def test_start_of_a_running_instance_keeps_it_and_raises_its_token(
        self, driver: Driver, spec: InstanceSpec
    ) -> None:
        driver.prepare(spec)
        driver.start(spec, token=7)
        assert driver.start(spec, token=8) == "running"
        domain = find_domain(driver, spec.id)
        assert domain is not None
        assert domain.token == 8

    def test_start_without_prepare_says_that_the_disk_is_missing(self, driver: Driver, spec: InstanceSpec) -> None:
        with pytest.raises(Never) as caught:
            driver.start(spec, token=1)
        assert caught.value.code == "disk_missing"
        assert find_domain(driver, spec.id) is None

    def test_stop_at_once_leaves_the_definition(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        assert driver.stop(spec.id, graceful_seconds=0) == "stopped"
        domain = find_domain(driver, spec.id)
        assert domain is not None
        assert domain.power == "stopped"
        assert driver.stop(spec.id, graceful_seconds=0) == "stopped"

    def test_stop_of_an_absent_instance_is_absent(self, driver: Driver) -> None:
        assert driver.stop(str(uuid.uuid4()), graceful_seconds=0) == "absent"

    def test_stopped_instance_starts_again(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        driver.stop(spec.id, graceful_seconds=0)
        assert driver.start(spec, token=2) == "running"

    def test_reboot_ends_running_from_either_state(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        assert driver.reboot(spec, token=1, graceful_seconds=0) == "running"
        assert driver.reboot(spec, token=2, graceful_seconds=0) == "running"
        domain = find_domain(driver, spec.id)
        assert domain is not None
        assert domain.token == 2

    def test_resize_of_a_stopped_instance_is_what_its_next_start_runs(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        driver.stop(spec.id, graceful_seconds=0)
        larger = resized(spec, memory_mib=spec.memory_mib * 2, size_gib=spec.disk.size_gib + 1)
        driver.resize(larger, token=2)
        driver.resize(larger, token=3)
        stopped = find_domain(driver, spec.id)
        assert stopped is not None
        assert (stopped.power, stopped.memory_mib, stopped.token) == ("stopped", larger.memory_mib, 3)
        assert driver.start(larger, token=4) == "running"

    def test_resize_is_taken_back_by_the_old_size(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        larger = resized(spec, memory_mib=spec.memory_mib * 2, size_gib=spec.disk.size_gib + 1)
        driver.resize(larger, token=1)
        driver.resize(spec, token=2)
        domain = find_domain(driver, spec.id)
        assert domain is not None
        assert (domain.power, domain.memory_mib, domain.token) == ("stopped", spec.memory_mib, 2)

    def test_resize_of_a_running_instance_is_refused_and_changes_nothing(
        self, driver: Driver, spec: InstanceSpec
    ) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        with pytest.raises(Never) as caught:
            driver.resize(resized(spec, memory_mib=spec.memory_mib * 2), token=2)
        assert caught.value.code == "domain_running"
        domain = find_domain(driver, spec.id)
        assert domain is not None
        assert (domain.power, domain.token) == ("running", 1)
        driver.stop(spec.id, graceful_seconds=0)
        stopped = find_domain(driver, spec.id)
        assert stopped is not None
        assert stopped.memory_mib == spec.memory_mib

    def test_resize_without_prepare_says_that_the_disk_is_missing(self, driver: Driver, spec: InstanceSpec) -> None:
        with pytest.raises(Never) as caught:
            driver.resize(spec, token=1)
        assert caught.value.code == "disk_missing"
        assert find_domain(driver, spec.id) is None

    def test_remove_leaves_nothing(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        driver.remove(spec.id)
        assert find_domain(driver, spec.id) is None
        assert spec.id not in driver.list_disks()
        assert driver.console_log(spec.id, max_bytes=1000) == b""

    def test_remove_of_what_never_was_is_no_error(self, driver: Driver) -> None:
        driver.remove(str(uuid.uuid4()))

    def test_remove_after_prepare_alone_leaves_nothing(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.remove(spec.id)
        driver.remove(spec.id)
        assert spec.id not in driver.list_disks()

    def test_instance_can_be_made_again_after_remove(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        driver.remove(spec.id)
        driver.prepare(spec)
        assert driver.start(spec, token=2) == "running"

    @pytest.mark.parametrize("running", [False, True])
    def test_withdraw_leaves_nothing_but_the_disk(self, driver: Driver, spec: InstanceSpec, *, running: bool) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        if not running:
            driver.stop(spec.id, graceful_seconds=0)
        driver.withdraw(spec.id, running_too=running)
        driver.withdraw(spec.id)
        assert find_domain(driver, spec.id) is None
        assert spec.id in driver.list_disks()
        assert driver.console_log(spec.id, max_bytes=1000) == b""
        assert driver.start(spec, token=2) == "running", "the disk is whole"

    @pytest.mark.parametrize("paused_too", [False, True])
    def test_withdraw_leaves_a_running_guest_alone(
        self, driver: Driver, spec: InstanceSpec, *, paused_too: bool
    ) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        with pytest.raises(Never) as caught:
            driver.withdraw(spec.id, paused_too=paused_too)
        assert caught.value.code == "domain_running"
        domain = find_domain(driver, spec.id)
        assert domain is not None
        assert (domain.power, domain.token) == ("running", 1)

    def test_withdraw_of_what_never_was_is_no_error(self, driver: Driver) -> None:
        driver.withdraw(str(uuid.uuid4()), running_too=True)

    def test_disk_below_the_image_size_is_refused(self, driver: Driver, spec: InstanceSpec) -> None:
        image = dataclasses.replace(spec.disk.image, virtual_size_gib=spec.disk.size_gib + 1)
        with pytest.raises(Never) as caught:
            driver.prepare(dataclasses.replace(spec, disk=dataclasses.replace(spec.disk, image=image)))
        assert caught.value.code == "disk_too_small"
        assert spec.id not in driver.list_disks()

    def test_inventory_names_the_images_that_were_used_here(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        assert spec.disk.image.id in driver.inventory().images

    def test_inventory_says_what_a_guest_can_be_given(self, driver: Driver) -> None:
        inventory = driver.inventory()
        assert inventory.cpu_model in inventory.cpu_models
        assert inventory.cpu_flags

    def test_inventory_is_the_declared_slice(self, driver: Driver) -> None:
        inventory = driver.inventory()
        assert (inventory.vcpus, inventory.memory_mib, inventory.disk_gib) == (2, 2048, 20)
        assert set(inventory.virt_modes) <= set(driver.capabilities().modes)

    def test_guest_runs_in_its_tenants_partition_below_those_above(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        assert partition_shares(driver) == {OUTER: 100, INNER: 100}

    def test_weights_reach_guests_that_run(self, driver: Driver, spec: InstanceSpec) -> None:
        driver.prepare(spec)
        driver.start(spec, token=1)
        driver.weigh((TenantShares(TENANT, cpu=300, io=200),))
        assert partition_shares(driver) == {OUTER: 100, INNER: 300}
        driver.weigh((TenantShares(PARENT, cpu=50, io=50),))
        assert partition_shares(driver) == {OUTER: 50, INNER: 100}

    def test_weights_are_there_when_a_restarted_worker_starts_the_guest(
        self, driver: Driver, reopen: Callable[[], Driver], spec: InstanceSpec
    ) -> None:
        driver.prepare(spec)
        driver.weigh((TenantShares(TENANT, cpu=300, io=200), TenantShares(PARENT, cpu=10_000, io=1)))
        restarted = reopen()
        try:
            restarted.start(spec, token=1)
            assert partition_shares(restarted) == {OUTER: 10_000, INNER: 300}
        finally:
            restarted.close()

    def test_partitions_go_with_their_last_guest(self, driver: Driver, spec: InstanceSpec) -> None:
        shares = (TenantShares(TENANT, cpu=300, io=300),)
        driver.prepare(spec)
        driver.start(spec, token=1)
        driver.weigh(shares)
        assert INNER in partition_shares(driver)
        driver.stop(spec.id, graceful_seconds=0)
        driver.weigh(shares)
        assert partition_shares(driver) == {}
        driver.start(spec, token=2)
        assert partition_shares(driver) == {OUTER: 100, INNER: 300}

    def test_guest_without_a_partition_runs_outside_of_them(self, driver: Driver, spec: InstanceSpec) -> None:
        outside = dataclasses.replace(spec, partition=())
        driver.prepare(outside)
        assert driver.start(outside, token=1) == "running"
        assert driver.list_partitions() == ()
