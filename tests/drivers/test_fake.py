"""The fake driver keeps the contract, and its faults strike as they say."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from compute.node.drivers.base import DriverError, Never, RetryLater, Unknown
from compute.node.drivers.fake import STEPS, FakeDriver, FakeHost
from compute.node.drivers.faults import Fault, SimulatedCrash
from compute.node.drivers.registry import open_driver
from compute.node.drivers.settings import DriverSettings
from compute.wire import DomainReport, InstanceSpec, PowerState
from tests.drivers.contract import DriverContract, find_domain
from tests.drivers.specs import make_spec

MOVES = ("receive", "migrate", "adopt")  # tests/drivers/test_fake_migration.py
METHODS = [method for method in STEPS if method not in MOVES]
STEP_NAMES = [step for method in METHODS for step in STEPS[method]]


@pytest.fixture
def settings(tmp_path: Path) -> DriverSettings:
    return DriverSettings(
        vcpus=2, memory_mib=2048, disk_gib=20, shared_dir=tmp_path / "shared", local_dir=tmp_path / "local"
    )


@pytest.fixture
def driver(settings: DriverSettings) -> FakeDriver:
    return FakeDriver(settings)


@pytest.fixture
def spec() -> InstanceSpec:
    return make_spec()


@pytest.fixture
def reopen(driver: FakeDriver, settings: DriverSettings) -> Callable[[], FakeDriver]:
    return lambda: FakeDriver(settings, driver.host)


class TestContract(DriverContract):
    pass


class TestContainerContract(DriverContract):
    @pytest.fixture
    def spec(self) -> InstanceSpec:
        return make_spec("container")


def run_through(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.prepare(spec)
    driver.start(spec, token=1)
    driver.stop(spec.id, graceful_seconds=1)
    driver.resize(spec, token=2)
    driver.withdraw(spec.id)
    driver.remove(spec.id)


@pytest.mark.parametrize(("kind", "error"), [("retry", RetryLater), ("never", Never), ("unknown", Unknown)])
@pytest.mark.parametrize("at", [*METHODS, *(step for step in STEP_NAMES if step != "stop.cut")])
def test_fault_before_a_step_raises_its_error_with_its_code(
    driver: FakeDriver, spec: InstanceSpec, at: str, kind: str, error: type[DriverError]
) -> None:
    driver.inject(Fault(at, kind, code="storage_on_fire"))  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        run_through(driver, spec)
    assert caught.value.code == "storage_on_fire"


@pytest.mark.parametrize("kind", ["crash", "crash_after"])
@pytest.mark.parametrize("at", STEP_NAMES)
def test_life_goes_on_after_a_crash_at_any_step(
    settings: DriverSettings, tmp_path: Path, spec: InstanceSpec, at: str, kind: str
) -> None:
    state_file = tmp_path / "fake.json"
    first = FakeDriver(settings, FakeHost.load(state_file))
    if at == "stop.cut":
        first.inject(Fault("stop.ask", "no_effect"))
    first.inject(Fault(at, kind))  # type: ignore[arg-type]
    with pytest.raises(SimulatedCrash):
        run_through(first, spec)
    second = FakeDriver(settings, FakeHost.load(state_file))
    run_through(second, spec)
    assert second.list_disks() == ()
    assert second.list_domains() == ()


def test_unknown_after_has_done_the_work(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.prepare(spec)
    driver.inject(Fault("start", "unknown_after"))
    with pytest.raises(Unknown):
        driver.start(spec, token=1)
    domain = find_domain(driver, spec.id)
    assert domain is not None
    assert domain.power == "running"


def test_fault_strikes_as_often_as_it_says_after_its_skips(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.inject(Fault("prepare", "retry", times=2, skip=1))
    driver.prepare(spec)
    for _ in range(2):
        with pytest.raises(RetryLater):
            driver.prepare(spec)
    driver.prepare(spec)


def test_fault_of_another_instance_does_not_strike(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.inject(Fault("prepare", "never", instance_id=str(uuid.uuid4())))
    driver.prepare(spec)


def test_fault_at_an_unknown_place_is_refused(driver: FakeDriver) -> None:
    with pytest.raises(ValueError, match=r"prepare\.disc"):
        driver.inject(Fault("prepare.disc", "never"))


def test_hang_holds_its_own_call_only_and_ends_when_released(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.inject(Fault("prepare", "hang", instance_id=spec.id))
    thread = threading.Thread(target=driver.prepare, args=(spec,))
    thread.start()
    other = make_spec()
    driver.prepare(other)
    assert driver.list_disks() == (other.id,)
    driver.release()
    thread.join(5)
    assert set(driver.list_disks()) == {spec.id, other.id}


def test_deaf_guest_is_cut_off(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.prepare(spec)
    driver.start(spec, token=1)
    driver.inject(Fault("stop.ask", "no_effect"))
    assert driver.stop(spec.id, graceful_seconds=1) == "stopped"


def test_failed_boot_says_so(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.prepare(spec)
    driver.inject(Fault("start.boot", "no_effect"))
    with pytest.raises(Never) as caught:
        driver.start(spec, token=1)
    assert caught.value.code == "start_failed"


def test_crashed_and_paused_guests_start(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.prepare(spec)
    driver.start(spec, token=1)
    powers: tuple[PowerState, ...] = ("paused", "crashed")
    for power in powers:
        driver.set_power(spec.id, power)
        assert driver.start(spec, token=2) == "running"


def test_full_storage_is_a_matter_of_time(driver: FakeDriver) -> None:
    big = make_spec(size_gib=20)
    driver.prepare(big)
    with pytest.raises(RetryLater) as caught:
        driver.prepare(make_spec())
    assert caught.value.code == "storage_full"
    driver.remove(big.id)
    driver.prepare(make_spec())


def test_missing_image_is_named(driver: FakeDriver, spec: InstanceSpec) -> None:
    driver.host.images_missing.add(spec.disk.image.id)
    with pytest.raises(Never) as caught:
        driver.prepare(spec)
    assert caught.value.code == "image_missing"


def test_foreign_domain_is_reported_and_never_touched(driver: FakeDriver, spec: InstanceSpec) -> None:
    foreign = DomainReport(uuid=spec.id, name="theirs", instance_id=None, kind="vm", power="running")
    driver.host.foreign[spec.id] = foreign
    driver.prepare(spec)
    for call in (
        lambda: driver.start(spec, token=1),
        lambda: driver.stop(spec.id, graceful_seconds=0),
        lambda: driver.remove(spec.id),
    ):
        with pytest.raises(Never) as caught:
            call()
        assert caught.value.code == "foreign_domain"
    assert driver.list_domains() == (foreign,)


def test_host_outlives_the_driver_and_the_process(settings: DriverSettings, spec: InstanceSpec) -> None:
    first = open_driver("fake", settings)
    first.prepare(spec)
    first.start(spec, token=5)
    first.close()
    with pytest.raises(Unknown):
        first.list_domains()
    second = open_driver("fake", settings)
    domain = find_domain(second, spec.id)
    assert domain is not None
    assert (domain.power, domain.token) == ("running", 5)


def test_two_thousand_hosts_are_cheap(settings: DriverSettings) -> None:
    begun = time.monotonic()
    drivers = [FakeDriver(settings) for _ in range(2000)]
    spec = make_spec()
    for driver in drivers:
        driver.prepare(spec)
        driver.start(spec, token=1)
    assert sum(len(driver.list_domains()) for driver in drivers) == 2000
    assert time.monotonic() - begun < 5


def test_registry_refuses_a_name_it_does_not_know(settings: DriverSettings) -> None:
    with pytest.raises(ValueError, match="xen"):
        open_driver("xen", settings)
