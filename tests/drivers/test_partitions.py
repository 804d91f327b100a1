"""Partitions in file trees as both versions of control groups lay them out; the real version 1 is in the lab tests."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from compute.node.drivers.libvirt.cgroups import Cgroups
from compute.node.drivers.libvirt.partitions import Partitions
from compute.wire import TenantShares, partition_name

PARENT, TENANT = str(uuid.UUID(int=0xAA)), str(uuid.UUID(int=0xBB))
OUTER, INNER = partition_name(PARENT), partition_name(TENANT)
V1_FILES = {
    "cpu": {"cpu.shares": "1024\n", "tasks": ""},
    "cpuacct": {"cpuacct.usage": "0\n"},
    "cpuset": {"cpuset.cpus": "\n", "cpuset.mems": "\n"},
    "blkio": {"blkio.bfq.weight": "100\n"},
    "memory": {},
}
V2_FILES = {
    "cgroup.controllers": "cpuset cpu io memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.threads": "",
    "cpu.weight": "100\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
    "io.weight": "default 100\n",
}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have new directories below `tmp_path` filled, and emptied before their end, as the kernel does with groups."""
    make, remove = Path.mkdir, Path.rmdir

    def files(path: Path) -> dict[str, str]:
        controller = path.relative_to(tmp_path).parts[0]
        return {"cgroup.procs": "", **V1_FILES.get(controller, V2_FILES)}

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        new = not path.is_dir()
        make(path, mode, parents, exist_ok)
        if new and path.is_relative_to(tmp_path):
            for name, text in files(path).items():
                (path / name).write_text(text)

    def rmdir(path: Path) -> None:
        if path.is_relative_to(tmp_path) and path.is_dir() and not any(entry.is_dir() for entry in path.iterdir()):
            for entry in path.iterdir():
                entry.unlink()
        remove(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)
    return tmp_path


@pytest.fixture
def v1(kernel: Path) -> Path:
    for controller in V1_FILES:
        (kernel / controller).mkdir()
    (kernel / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    (kernel / "cpuset" / "cpuset.mems").write_text("0\n")
    return kernel


@pytest.fixture
def v2(kernel: Path) -> Path:
    for name, text in V2_FILES.items():
        (kernel / name).write_text(text)
    return kernel


@pytest.fixture
def open_partitions(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Partitions]:
    file = tmp_path_factory.mktemp("kept") / "shares.json"

    def opened(root: Path, version: int, *, systemd: bool = False) -> Partitions:
        return Partitions(Cgroups(version, frozenset(), root), base="cenote1", file=file, systemd=systemd)

    return opened


def test_version_1_has_the_groups_in_every_controller_with_cpus_and_memory_nodes(
    v1: Path, open_partitions: Callable[..., Partitions]
) -> None:
    partitions = open_partitions(v1, 1)
    with partitions.hold((PARENT, TENANT)) as name:
        assert name == f"/machine/cenote1/{OUTER}/{INNER}/own"
        below = f"machine/cenote1.partition/{OUTER}.partition/{INNER}.partition/own.partition"
        for controller in V1_FILES:
            assert (v1 / controller / below).is_dir()
        assert (v1 / "cpuset" / below / "cpuset.cpus").read_text() == "0-1\n"
        assert (v1 / "cpuset" / below / "cpuset.mems").read_text() == "0\n"


def test_version_2_has_its_controllers_enabled_down_the_path(
    v2: Path, open_partitions: Callable[..., Partitions]
) -> None:
    with open_partitions(v2, 2).hold((TENANT,)):
        inner = v2 / "machine" / "cenote1.partition" / f"{INNER}.partition"
        assert (inner / "own.partition").is_dir()
        for group in (v2, v2 / "machine", inner):
            # A real file adds to what is enabled; this one keeps the last word.
            assert (group / "cgroup.subtree_control").read_text() == "+pids"


def test_shares_become_the_weights_of_each_version(
    v1: Path, open_partitions: Callable[..., Partitions], tmp_path_factory: pytest.TempPathFactory
) -> None:
    partitions = open_partitions(v1, 1)
    group = f"machine/cenote1.partition/{INNER}.partition"
    with partitions.hold((TENANT,)):
        partitions.weigh([TenantShares(TENANT, cpu=300, io=250)])
        assert (v1 / "cpu" / group / "cpu.shares").read_text() == "3072"
        assert (v1 / "blkio" / group / "blkio.bfq.weight").read_text() == "250"
        assert (v1 / "cpu" / group / "own.partition" / "cpu.shares").read_text() == "1024\n"
        partitions.weigh([TenantShares(TENANT, cpu=10_000, io=10_000)])
        assert (v1 / "cpu" / group / "cpu.shares").read_text() == "102400"
        assert (v1 / "blkio" / group / "blkio.bfq.weight").read_text() == "1000"


def test_version_2_weights(v2: Path, open_partitions: Callable[..., Partitions]) -> None:
    partitions = open_partitions(v2, 2)
    with partitions.hold((TENANT,)):
        partitions.weigh([TenantShares(TENANT, cpu=300, io=250)])
        group = v2 / "machine" / "cenote1.partition" / f"{INNER}.partition"
        assert (group / "cpu.weight").read_text() == "300"
        assert (group / "io.weight").read_text() == "250"
        (seen,) = partitions.report()
        assert (seen.path, seen.cpu_shares, seen.cpu_seconds) == ((INNER,), 300, 2.5)


def test_weight_changed_by_hand_is_mended_and_one_that_is_right_is_not_written(
    v1: Path, open_partitions: Callable[..., Partitions]
) -> None:
    partitions = open_partitions(v1, 1)
    wanted = [TenantShares(TENANT, cpu=300, io=100)]
    with partitions.hold((TENANT,)):
        partitions.weigh(wanted)
        file = v1 / "cpu" / "machine" / "cenote1.partition" / f"{INNER}.partition" / "cpu.shares"
        os.utime(file, (1, 1))
        partitions.weigh(wanted)
        assert file.stat().st_mtime == 1
        file.write_text("2")
        assert [seen.cpu_shares for seen in partitions.report()] == [0]
        partitions.weigh(wanted)
        assert file.read_text() == "3072"


def test_partition_is_kept_while_a_guest_is_on_its_way_or_in_it(
    v1: Path, open_partitions: Callable[..., Partitions]
) -> None:
    partitions = open_partitions(v1, 1)
    with partitions.hold((PARENT, TENANT)):
        partitions.weigh([])
        assert len(partitions.report()) == 2
        guest = f"machine/cenote1.partition/{OUTER}.partition/{INNER}.partition/own.partition/qemu-1.libvirt-qemu"
        for controller in V1_FILES:
            (v1 / controller / guest).mkdir()
    partitions.weigh([])
    assert len(partitions.report()) == 2
    for controller in V1_FILES:
        (v1 / controller / guest).rmdir()
    partitions.weigh([])
    assert partitions.report() == ()
    assert not (v1 / "memory" / "machine" / "cenote1.partition").exists()


def test_tenant_weighs_the_same_where_its_guests_began_before_it_was_moved(
    v1: Path, open_partitions: Callable[..., Partitions]
) -> None:
    partitions = open_partitions(v1, 1)
    with partitions.hold((PARENT, TENANT)), partitions.hold((TENANT,)):
        partitions.weigh([TenantShares(TENANT, cpu=300, io=100)])
        assert {seen.path: seen.cpu_shares for seen in partitions.report()} == {
            (OUTER,): 100,
            (OUTER, INNER): 300,
            (INNER,): 300,
        }


def test_weights_are_kept_for_a_host_that_booted(v1: Path, open_partitions: Callable[..., Partitions]) -> None:
    open_partitions(v1, 1).weigh([TenantShares(TENANT, cpu=300, io=100)])
    booted = open_partitions(v1, 1)
    with booted.hold((TENANT,)):
        assert [seen.cpu_shares for seen in booted.report()] == [300]


def test_with_systemd_slices_are_left_to_machined_and_weighed(
    v2: Path, open_partitions: Callable[..., Partitions]
) -> None:
    partitions = open_partitions(v2, 2, systemd=True)
    partitions.weigh([TenantShares(PARENT, cpu=200, io=100), TenantShares(TENANT, cpu=300, io=100)])
    with partitions.hold((PARENT, TENANT)) as name:
        assert name == f"/machine/cenote1/{OUTER}/{INNER}/own"
        assert not (v2 / "machine.slice").exists()
        group = v2 / "machine.slice"
        for slice_name in ("cenote1", f"cenote1-{OUTER}", f"cenote1-{OUTER}-{INNER}", f"cenote1-{OUTER}-{INNER}-own"):
            group = group / f"machine-{slice_name}.slice"
        group.mkdir(parents=True)
        for above in (group.parent, group.parent.parent):  # mkdir(parents=True) fills the last group only
            for file, text in V2_FILES.items():
                (above / file).write_text(text)
    # At once, as they were told before: the next heartbeat may be long in coming.
    assert (group.parent / "cpu.weight").read_text() == "300"
    assert (group.parent.parent / "cpu.weight").read_text() == "200"
    partitions.weigh([TenantShares(TENANT, cpu=400, io=100)])
    assert {seen.path: seen.cpu_shares for seen in partitions.report()} == {(OUTER,): 100, (OUTER, INNER): 400}


def test_time_that_threads_wait_for_a_cpu_is_counted(v1: Path, open_partitions: Callable[..., Partitions]) -> None:
    partitions = open_partitions(v1, 1)
    ended = threading.Event()
    threads: list[int] = []

    def spin() -> None:
        threads.append(threading.get_native_id())
        while not ended.is_set():
            sum(range(500))

    spinners = [threading.Thread(target=spin) for _ in range(2)]
    with partitions.hold((TENANT,)):
        try:
            # One core for two that are always ready: each waits while the other runs, or holds the interpreter's lock.
            for spinner in spinners:
                spinner.start()
            time.sleep(0.1)
            for thread in threads:
                os.sched_setaffinity(thread, {min(os.sched_getaffinity(0))})
            own = v1 / "cpu" / "machine" / "cenote1.partition" / f"{INNER}.partition" / "own.partition"
            (own / "tasks").write_text("\n".join(map(str, threads)))
            assert partitions.report()[0].waited_seconds == 0  # what was before the first look is not ours to count
            deadline = time.monotonic() + 20
            while partitions.report()[0].waited_seconds == 0:
                assert time.monotonic() < deadline, "nothing was counted"
                time.sleep(0.05)
        finally:
            ended.set()
            for spinner in spinners:
                spinner.join()


def test_host_without_control_groups_has_no_partitions(
    tmp_path: Path, open_partitions: Callable[..., Partitions]
) -> None:
    partitions = open_partitions(tmp_path, 0)
    with partitions.hold((TENANT,)) as name:
        assert name is None
    partitions.weigh([TenantShares(TENANT, cpu=1, io=1)])
    assert partitions.report() == ()
