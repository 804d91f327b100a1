"""CPUs of one's own, cells and huge pages on a real host: what the kernel says of the guest's threads and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compute.node.drivers.base import Never
from compute.node.drivers.libvirt.host import LibvirtDriver
from compute.wire import CellSpec, InstanceSpec
from tests.drivers.conftest import Lab
from tests.drivers.specs import make_spec

pytestmark = pytest.mark.lab

SHARED, OWN = 0, 1  # the host's slice is these two CPUs, and the second is for guests alone
PAGE_MIB = 2
needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU cannot be shared out and kept")


@pytest.fixture
def driver(lab: Lab) -> Iterator[LibvirtDriver]:
    settings = dataclasses.replace(lab.settings, cpus=(SHARED, OWN), dedicated_cpus=(OWN,))
    driver = LibvirtDriver(settings, lab.network)
    yield driver
    for domain in driver.list_domains():
        driver.remove(domain.uuid)
    driver.close()


def vm(lab: Lab, **changes: object) -> InstanceSpec:
    return make_spec("vm", image=lab.vm_image, **{"memory_mib": 128, **changes})


def container(lab: Lab, **changes: object) -> InstanceSpec:
    return make_spec("container", image=lab.tree_image, **changes)


def run(driver: LibvirtDriver, spec: InstanceSpec) -> None:
    driver.prepare(spec)
    assert driver.start(spec, token=1) == "running"


def processes(text: str) -> list[Path]:
    """Return the processes with this text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (path / "cmdline").read_bytes():
                found.append(path)
    return found


def threads(instance_id: str) -> dict[str, str]:
    """Return the CPUs that each thread of a VM may use, by the thread's name."""
    (process,) = processes(f"-uuid\0{instance_id}\0")
    allowed = {}
    for task in (process / "task").iterdir():
        with contextlib.suppress(OSError):  # a thread of QEMU's pool that ended
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            allowed[status["Name"].strip()] = status["Cpus_allowed_list"].strip()
    return allowed


def test_the_hosts_cells_say_which_cpus_are_for_guests_alone(driver: LibvirtDriver) -> None:
    (cell,) = driver.inventory().numa
    assert (cell.cpus, cell.dedicated) == ((SHARED, OWN), (OWN,))


@needs_two_cpus
def test_the_vcpu_of_a_pinned_vm_runs_on_its_cpu_and_nothing_else_does(driver: LibvirtDriver, lab: Lab) -> None:
    pinned, other = vm(lab, cells=(CellSpec(0, 1, 128, cpus=(OWN,)),)), vm(lab)
    run(driver, pinned)
    run(driver, other)
    allowed = threads(pinned.id)
    vcpus = {name: cpus for name, cpus in allowed.items() if name.startswith("CPU ")}
    assert list(vcpus.values()) == [str(OWN)]
    assert {cpus for name, cpus in allowed.items() if name not in vcpus} == {str(SHARED)}
    assert set(threads(other.id).values()) == {str(SHARED)}


@needs_two_cpus
def test_a_pinned_container_has_its_cpu_and_another_one_keeps_off_it(driver: LibvirtDriver, lab: Lab) -> None:
    pinned, other = container(lab, cells=(CellSpec(0, 1, 64, cpus=(OWN,)),)), container(lab)
    allowed = []
    for spec in (pinned, other):
        run(driver, spec)
        allowed.append(container_cpus(driver, spec))
    assert allowed == [str(OWN), str(SHARED)]


def container_cpus(driver: LibvirtDriver, spec: InstanceSpec) -> str:
    """Return the CPUs that a container's init may use."""
    seen = driver._containers.hypervisor.find(spec.id)
    assert seen is not None
    (init,) = Path(f"/proc/{seen.pid}/task/{seen.pid}/children").read_text().split()
    status = Path(f"/proc/{init}/status").read_text().splitlines()
    return next(line for line in status if line.startswith("Cpus_allowed_list")).split(":")[1].strip()


def test_a_guest_of_two_nodes_is_shown_two(driver: LibvirtDriver, lab: Lab) -> None:
    # Two nodes in the one cell that this machine has: the scheduler would take two cells.
    spec = vm(lab, vcpus=2, cells=(CellSpec(0, 1, 64), CellSpec(0, 1, 64)))
    run(driver, spec)
    (process,) = processes(f"-uuid\0{spec.id}\0")
    words = (process / "cmdline").read_bytes().decode().split("\0")
    nodes = [words[place + 1] for place, word in enumerate(words) if word == "-numa"]
    assert [node.split(",")[:3] for node in nodes] == [["node", "nodeid=0", "cpus=0"], ["node", "nodeid=1", "cpus=1"]]


@pytest.mark.parametrize(
    "part",
    [CellSpec(7, 1, 128), CellSpec(0, 1, 128, cpus=(SHARED,)), CellSpec(0, 1, 128, page_kib=16)],
    ids=["no such cell", "a CPU that all share", "no such pages"],
)
def test_what_is_not_the_hosts_to_give_is_refused_for_good(driver: LibvirtDriver, lab: Lab, part: CellSpec) -> None:
    spec = vm(lab, cells=(part,))
    driver.prepare(spec)
    with pytest.raises(Never) as refused:
        driver.start(spec, token=1)
    assert refused.value.code == "cells_refused"


@pytest.fixture
def huge_pages() -> Iterator[int]:
    """So many huge pages of 2 MiB in cell 0, given back afterwards."""
    file = Path("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages")
    if not file.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before = int(file.read_text())
    wanted = 80
    try:
        file.write_text(str(before + wanted))
    except OSError as error:
        pytest.skip(f"huge pages cannot be set aside here: {error}")
    try:
        if int(file.read_text()) < before + wanted:
            pytest.skip("this machine has no memory in one piece for huge pages")
        yield wanted
    finally:
        file.write_text(str(before))


def test_the_memory_of_a_vm_is_in_huge_pages(driver: LibvirtDriver, lab: Lab, huge_pages: int) -> None:
    (pages,) = driver.inventory().numa[0].huge_pages
    assert pages.size_kib == 2048
    assert pages.total >= huge_pages
    spec = vm(lab, memory_mib=128, cells=(CellSpec(0, 1, 128, page_kib=2048),))
    run(driver, spec)
    (process,) = processes(f"-uuid\0{spec.id}\0")
    words = (process / "cmdline").read_bytes().decode()
    assert "/dev/hugepages" in words
    (left,) = driver.inventory().numa[0].huge_pages
    assert left.free <= pages.free - 128 // PAGE_MIB
    driver.remove(spec.id)
    deadline = time.monotonic() + 10
    while driver.inventory().numa[0].huge_pages[0].free < pages.free and time.monotonic() < deadline:
        time.sleep(0.1)
    assert driver.inventory().numa[0].huge_pages[0].free == pages.free
