"""Guests get from one fake host to another, and what goes wrong on the way leaves what real hosts would have."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from compute.node.drivers.base import Never, Unknown
from compute.node.drivers.fake import FakeDriver, FakeHost, FakeWire
from compute.node.drivers.faults import Fault, SimulatedCrash
from compute.node.drivers.settings import DriverSettings
from compute.wire import DomainLook, InstanceSpec, MigrationJob, MigrationStatus
from tests.drivers.specs import make_spec

HERE, THERE = "10.0.0.1", "10.0.0.2"
STORAGE = "fake-storage"


@pytest.fixture
def drivers(tmp_path: Path) -> tuple[FakeDriver, FakeDriver]:
    wire = FakeWire()
    made = [
        FakeDriver(
            DriverSettings(
                vcpus=2, memory_mib=2048, disk_gib=20, shared_dir=tmp_path, local_dir=tmp_path, underlay_address=address
            ),
            FakeHost(wire=wire),
        )
        for address in (HERE, THERE)
    ]
    return made[0], made[1]


@pytest.fixture
def spec(drivers: tuple[FakeDriver, FakeDriver]) -> InstanceSpec:
    spec = make_spec()
    drivers[0].prepare(spec)
    drivers[0].start(spec, token=1)
    return spec


def job(name: str = "job-1", to: str = THERE) -> MigrationJob:
    return MigrationJob(name, to)


def ask(
    driver: FakeDriver, spec: InstanceSpec, *, stop: bool = False, order: MigrationJob | None = None
) -> MigrationStatus:
    return driver.migrate(spec, order or job(), stop=stop)


def receive(driver: FakeDriver, spec: InstanceSpec) -> dict[str, str]:
    return driver.receive(spec, storage_id=STORAGE).obstacles


def test_a_guest_moves_and_is_adopted(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    source, destination = drivers
    assert receive(destination, spec) == {}
    assert ask(source, spec).ended == "moved"
    assert source.look(spec.id) == DomainLook("stopped", persistent=True)
    assert destination.look(spec.id) == DomainLook("running")
    assert destination.adopt(spec, token=9, resume=False) == "running"
    assert destination.look(spec.id) == DomainLook("running", persistent=True)
    assert [(seen.power, seen.token) for seen in destination.list_domains()] == [("running", 9)]
    assert {seen.path for seen in destination.list_partitions()} == {seen.path for seen in source.list_partitions()}


def test_asked_again_it_says_how_far_it_is_and_begins_no_second_job(
    drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec
) -> None:
    source, destination = drivers
    source.host.job_questions = 2
    receive(destination, spec)
    first, second, last = (ask(source, spec) for _ in range(3))
    assert [first.ended, second.ended, last.ended] == ["", "", "moved"]
    assert 0 < first.done_bytes < second.done_bytes < last.done_bytes
    assert ask(FakeDriver(source._settings, source.host), spec) == last  # also after a restart of the worker


def test_stopped_it_stays(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    source, destination = drivers
    source.host.job_questions = 5
    receive(destination, spec)
    ask(source, spec)
    assert source.look(spec.id).outgoing
    stopped = ask(source, spec, stop=True)
    assert (stopped.ended, stopped.code) == ("stayed", "cancelled")
    assert source.look(spec.id) == DomainLook("running", persistent=True)
    assert ask(source, spec) == stopped, "the same job does not begin anew"
    assert ask(source, spec, order=job("job-2")).ended == "", "another one does"


def test_nobody_expects_it(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    status = ask(drivers[0], spec)
    assert (status.ended, status.code) == ("stayed", "destination_refused")
    assert ask(drivers[0], spec, order=job("job-2", "10.9.9.9")).code == "destination_refused"
    assert drivers[0].look(spec.id).power == "running"


def test_what_does_not_run_does_not_move(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    source, destination = drivers
    receive(destination, spec)
    assert ask(destination, spec).ended == "absent"
    source.stop(spec.id, graceful_seconds=0)
    assert ask(source, spec).code == "not_running"


def test_obstacles_are_all_named(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    container = dataclasses.replace(spec, kind="container")
    found = drivers[0].receive(container, storage_id="another").obstacles
    assert set(found) == {"not_a_vm", "runs_here", "storage_not_shared"}


def test_adopting_nothing_is_refused(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    with pytest.raises(Never) as caught:
        drivers[1].adopt(spec, token=3, resume=False)
    assert caught.value.code == "domain_absent"


def test_a_paused_arrival_is_resumed_on_demand_alone(
    drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec
) -> None:
    source, destination = drivers
    receive(destination, spec)
    ask(source, spec)
    destination.set_power(spec.id, "paused")
    assert destination.look(spec.id) == DomainLook("paused", incoming=True)
    assert destination.adopt(spec, token=3, resume=False) == "paused"
    assert destination.adopt(spec, token=3, resume=True) == "running"


@pytest.mark.parametrize("kind", ["unknown_after", "crash_after"])
def test_moved_and_the_answer_lost(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec, kind: str) -> None:
    source, destination = drivers
    receive(destination, spec)
    source.inject(Fault("migrate.copy", kind))  # type: ignore[arg-type]
    with pytest.raises((Unknown, SimulatedCrash)):
        ask(source, spec)
    assert destination.look(spec.id).power == "running"
    assert ask(source, spec).ended == "moved"


def test_a_host_can_lie(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    source, destination = drivers
    receive(destination, spec)
    source.inject(Fault("migrate.copy", "no_effect"))
    assert ask(source, spec).ended == "moved"
    assert (source.look(spec.id).power, destination.look(spec.id).power) == ("running", "absent")


def test_two_pass_each_other(drivers: tuple[FakeDriver, FakeDriver], spec: InstanceSpec) -> None:
    """Opposite ways at once: no order of locks makes the two wait for each other."""
    one, other = drivers
    back = make_spec()
    other.prepare(back)
    other.start(back, token=1)
    receive(other, spec)
    receive(one, back)
    gate = threading.Barrier(2)
    ends: list[str] = []

    def go(driver: FakeDriver, guest: InstanceSpec, to: str) -> None:
        gate.wait()
        ends.append(ask(driver, guest, order=job(to=to)).ended)

    threads = [threading.Thread(target=go, args=order) for order in ((one, spec, THERE), (other, back, HERE))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert ends == ["moved", "moved"]
