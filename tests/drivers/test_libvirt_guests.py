"""The libvirt driver keeps the contract with real QEMU and real LXC, and does what the contract cannot ask."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from compute.node.drivers.base import Driver, Never, Unknown
from compute.node.drivers.libvirt.host import LibvirtDriver
from compute.node.images.layout import instance_paths
from compute.wire import InstanceSpec
from tests.drivers.conftest import STORAGE_ID, Lab, furnish
from tests.drivers.contract import DriverContract, find_domain
from tests.drivers.libvirtd import private_host
from tests.drivers.specs import make_spec

pytestmark = pytest.mark.lab
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeKeyForTestsOnlyFakeKeyForTestsOnly tester"


@pytest.fixture
def driver(lab: Lab) -> Iterator[LibvirtDriver]:
    driver = lab.open_driver()
    yield driver
    for instance_id in {*driver.list_disks(), *(domain.instance_id for domain in driver.list_domains())}:
        if instance_id is not None:
            driver.remove(instance_id)
    driver.weigh(())
    driver.close()


@pytest.fixture
def vm(lab: Lab) -> InstanceSpec:
    return make_spec("vm", image=lab.vm_image, memory_mib=128, ssh_keys=(KEY,))


@pytest.fixture
def container(lab: Lab) -> InstanceSpec:
    return make_spec("container", image=lab.tree_image, ssh_keys=(KEY,))


@pytest.fixture
def reopen(lab: Lab) -> Callable[[], LibvirtDriver]:
    return lab.open_driver


class TestVmContract(DriverContract):
    @pytest.fixture
    def spec(self, vm: InstanceSpec) -> InstanceSpec:
        return vm


class TestContainerContract(DriverContract):
    @pytest.fixture
    def spec(self, container: InstanceSpec) -> InstanceSpec:
        return container


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def wait_for_console(driver: Driver, instance_id: str, text: bytes, *, seconds: float = 60.0) -> None:
    def said() -> bytes:
        return driver.console_log(instance_id, max_bytes=1 << 20)

    wait_until(lambda: text in said(), seconds)


def controller_pid(driver: LibvirtDriver, instance_id: str) -> int:
    seen = driver._containers.find(instance_id)
    assert seen is not None
    return seen.pid


def init_pid(driver: LibvirtDriver, instance_id: str) -> int:
    """The container's first process as the host sees it: the child of libvirt's controller."""
    parent = controller_pid(driver, instance_id)
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


@pytest.mark.parametrize("kind", ["vm", "container"])
def test_guest_comes_up_takes_its_name_and_shuts_down_when_asked(
    driver: LibvirtDriver, request: pytest.FixtureRequest, kind: str
) -> None:
    spec = dataclasses.replace(request.getfixturevalue(kind), name="Süd Web_01", nics=())
    driver.prepare(spec)
    driver.start(spec, token=1)
    wait_for_console(driver, spec.id, b"s-d-web-01 login:")
    begun = time.monotonic()
    assert driver.stop(spec.id, graceful_seconds=30) == "stopped"
    assert time.monotonic() - begun < 25
    assert b"stopping for poweroff" in driver.console_log(spec.id, max_bytes=4000)


@pytest.mark.parametrize("verb", ["remove", "withdraw"])
@pytest.mark.parametrize("kind", ["vm", "container"])
def test_nothing_on_the_host_remembers_an_instance_that_is_gone(
    driver: LibvirtDriver, lab: Lab, request: pytest.FixtureRequest, kind: str, verb: str
) -> None:
    spec = request.getfixturevalue(kind)
    driver.prepare(spec)
    driver.start(spec, token=1)
    assert spec.nics[0].device in lab.host.run("ip", "-o", "link")
    if verb == "remove":
        driver.remove(spec.id)
    else:
        driver.withdraw(spec.id, running_too=True)
    kept = {str(instance_paths(lab.settings, spec.id).shared)} if verb == "withdraw" else set()
    left = subprocess.run(["find", lab.host.root, "-name", f"*{spec.id[-12:]}*"], capture_output=True, text=True)
    assert set(left.stdout.split()) == kept
    groups = subprocess.run(["find", "/sys/fs/cgroup", "-name", f"*{spec.id[-12:]}*"], capture_output=True, text=True)
    assert groups.stdout == ""
    assert spec.nics[0].device not in lab.host.run("ip", "-o", "link")
    assert spec.nics[0].device not in lab.network.ports
    assert subprocess.run(["pgrep", "-f", spec.id], capture_output=True).returncode == 1


@pytest.mark.parametrize("kind", ["vm", "container"])
def test_secrets_are_for_root_only(driver: LibvirtDriver, lab: Lab, request: pytest.FixtureRequest, kind: str) -> None:
    spec = dataclasses.replace(request.getfixturevalue(kind), user_data="#cloud-config\npassword: canary-secret\n")
    driver.prepare(spec)
    found = 0
    for path in (lab.settings.shared_dir / "instances" / spec.id).rglob("*"):
        if not path.is_symlink() and path.is_file() and b"canary-secret" in path.read_bytes():
            found += 1
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert found == 1


def test_vm_has_the_disk_of_its_flavor_on_the_image_and_says_both_formats(
    driver: LibvirtDriver, lab: Lab, vm: InstanceSpec
) -> None:
    spec = dataclasses.replace(vm, disk=dataclasses.replace(vm.disk, size_gib=3))
    driver.prepare(spec)
    disk = lab.settings.shared_dir / "instances" / spec.id / "disk.qcow2"
    told = subprocess.run(["qemu-img", "info", "-f", "qcow2", "-U", disk], capture_output=True, text=True).stdout
    assert "virtual size: 3 GiB" in told
    assert "backing file format: qcow2" in told


@pytest.mark.timeout(240)
def test_guest_sees_its_new_size_and_its_disk_is_not_cut_where_that_is_undone(
    driver: LibvirtDriver, lab: Lab, vm: InstanceSpec
) -> None:
    memory = "$(awk '/MemTotal/ { print ($2 > 180000) }' /proc/meminfo)"
    root = "$(df -k / | awk 'END { print ($2 > 2500000) }')"
    tell = f"echo size $(nproc) {memory} $(cat /sys/class/block/vda/size) {root}"
    vm = dataclasses.replace(vm, user_data=f"#!/bin/sh\n{tell} >/dev/console\n")
    driver.prepare(vm)
    larger = dataclasses.replace(
        vm, vcpus=2, memory_mib=vm.memory_mib * 2, disk=dataclasses.replace(vm.disk, size_gib=3)
    )
    driver.resize(larger, token=1)
    driver.start(larger, token=2)
    # Two processors under translation come up slowly on a busy machine.
    wait_for_console(driver, vm.id, f"size 2 1 {3 << 21} 1".encode(), seconds=150)
    driver.stop(vm.id, graceful_seconds=0)
    driver.resize(vm, token=3)
    disk = lab.settings.shared_dir / "instances" / vm.id / "disk.qcow2"
    told = subprocess.run(["qemu-img", "info", "-f", "qcow2", disk], capture_output=True, text=True).stdout
    assert "virtual size: 3 GiB" in told, "the guest's file system lies there"


def test_vm_console_is_on_a_private_socket(driver: LibvirtDriver, lab: Lab, vm: InstanceSpec) -> None:
    driver.prepare(vm)
    driver.start(vm, token=1)
    sockets = list((lab.host.root / "lib").rglob("vnc.sock"))
    assert len(sockets) == 1
    assert stat.S_ISSOCK(sockets[0].stat().st_mode)
    assert stat.S_IMODE(sockets[0].parent.stat().st_mode) & 0o007 == 0
    assert "LISTEN" not in lab.host.run("ss", "-Htln")


def test_paused_vm_goes_on_when_started(driver: LibvirtDriver, lab: Lab, vm: InstanceSpec) -> None:
    driver.prepare(vm)
    driver.start(vm, token=1)
    connection = libvirt.open(lab.host.qemu_uri)
    connection.lookupByUUIDString(vm.id).suspend()
    connection.close()
    domain = find_domain(driver, vm.id)
    assert domain is not None
    assert domain.power == "paused"
    assert driver.start(vm, token=2) == "running"


def test_killed_vm_is_seen_as_crashed_and_starts_again(driver: LibvirtDriver, vm: InstanceSpec) -> None:
    driver.prepare(vm)
    driver.start(vm, token=1)
    pid = int(subprocess.run(["pgrep", "-f", vm.id], capture_output=True, text=True, check=True).stdout.split()[0])
    os.kill(pid, 9)

    def power() -> str:
        domain = find_domain(driver, vm.id)
        assert domain is not None
        return domain.power

    wait_until(lambda: power() == "crashed", 10)
    assert driver.start(vm, token=2) == "running"


def test_container_is_confined(driver: LibvirtDriver, lab: Lab, container: InstanceSpec) -> None:
    spec = dataclasses.replace(container, pids_limit=64, memory_mib=96, cpu_shares=512, nics=())
    driver.prepare(spec)
    driver.start(spec, token=1)
    wait_for_console(driver, spec.id, b"login:")
    pid = init_pid(driver, spec.id)
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
    assert Path(f"/proc/{pid}").stat().st_uid == 100_000
    for namespace in ("net", "pid", "mnt", "user", "uts", "ipc"):
        assert os.readlink(f"/proc/{pid}/ns/{namespace}") != os.readlink(f"/proc/self/ns/{namespace}")
    enter = ["nsenter", "-t", str(pid), "-a", "-S", "0", "-G", "0", "--"]

    def inside(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=20)

    assert inside("mknod", "/null", "c", "1", "3").returncode != 0
    assert inside("sh", "-c", "echo h >/proc/sysrq-trigger").returncode != 0
    assert inside("ls", str(lab.host.root)).returncode != 0
    assert inside("cat", "/etc/hostname").stdout == "guest\n"


def test_container_limits_are_what_the_kernel_says(driver: LibvirtDriver, lab: Lab, container: InstanceSpec) -> None:
    if driver._cgroups.version != 1:
        pytest.skip("reads the files of control groups version 1")
    spec = dataclasses.replace(container, pids_limit=64, memory_mib=96, cpu_shares=512, vcpus=2, nics=())
    driver.prepare(spec)
    driver.start(spec, token=1)
    lines = Path(f"/proc/{controller_pid(driver, spec.id)}/cgroup").read_text().splitlines()
    groups = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}

    def read(controller: str, file: str) -> int:
        return int(Path(f"/sys/fs/cgroup/{controller}{groups[controller]}/{file}").read_text())

    assert read("memory", "memory.limit_in_bytes") == 96 << 20
    assert read("cpu", "cpu.shares") == 512
    assert read("cpu", "cpu.cfs_quota_us") == 2 * read("cpu", "cpu.cfs_period_us")
    assert read("pids", "pids.max") == 64
    # Among the groups that `drop_groups` takes away with a host whose plug was pulled.
    assert groups["pids"].startswith(f"/machine/{lab.host.netns}.partition/")


def test_container_cannot_make_more_processes_than_its_limit(
    driver: LibvirtDriver, lab: Lab, container: InstanceSpec
) -> None:
    spec = dataclasses.replace(container, pids_limit=64, nics=())
    driver.prepare(spec)
    driver.start(spec, token=1)
    wait_for_console(driver, spec.id, b"login:")
    script = "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done"
    enter = ["nsenter", "-t", str(init_pid(driver, spec.id)), "-a", "-S", "0", "-G", "0", "--", "sh", "-c", script]
    # nsenter's own process is outside of the container's groups: it enters them as an inhabitant would be born there.
    group = Path(f"/sys/fs/cgroup/pids/machine/{lab.host.netns}.partition/{spec.id}/cgroup.procs")
    if not group.is_file():
        pytest.skip("reads the files of control groups version 1")
    done = subprocess.run(
        ["sh", "-c", f'echo $$ >{group}; exec "$@"', "sh", *enter], capture_output=True, text=True, timeout=60
    )
    assert "fork" in done.stderr
    assert len(group.read_text().split()) <= 64


def test_talkative_container_is_never_blocked_and_its_log_stays_bounded(
    driver: LibvirtDriver, lab: Lab, container: InstanceSpec
) -> None:
    spec = dataclasses.replace(container, nics=())
    driver.prepare(spec)
    driver.start(spec, token=1)
    wait_for_console(driver, spec.id, b"login:")
    script = "dd if=/dev/zero bs=1M count=6 2>/dev/null | tr '\\0' x >/dev/console; echo the-end >/dev/console"
    enter = ["nsenter", "-t", str(init_pid(driver, spec.id)), "-a", "-S", "0", "-G", "0", "--", "sh", "-c", script]
    subprocess.run(enter, check=True, timeout=60)
    wait_for_console(driver, spec.id, b"the-end")
    local = lab.settings.local_dir / "instances" / spec.id
    assert sum(path.stat().st_size for path in local.glob("console.log*")) <= 6 << 20


def test_log_of_a_vm_can_be_cut_while_the_guest_speaks(driver: LibvirtDriver, lab: Lab, vm: InstanceSpec) -> None:
    spec = dataclasses.replace(vm, nics=())
    driver.prepare(spec)
    driver.start(spec, token=1)
    wait_for_console(driver, spec.id, b"login:")
    log = lab.settings.local_dir / "instances" / spec.id / "console.log"
    os.truncate(log, 0)
    driver.stop(spec.id, graceful_seconds=30)
    # Without O_APPEND in QEMU's hands the file would begin with a hole as long as what was cut off.
    assert b"stopping" in log.read_bytes()
    assert not log.read_bytes().startswith(b"\0")


def test_console_is_read_again_after_a_restart_of_the_node_worker(
    driver: LibvirtDriver, lab: Lab, container: InstanceSpec
) -> None:
    spec = dataclasses.replace(container, nics=())
    first = lab.open_driver()
    first.prepare(spec)
    first.start(spec, token=1)
    wait_for_console(first, spec.id, b"login:")
    first.close()
    assert find_domain(driver, spec.id) is not None
    enter = ["nsenter", "-t", str(init_pid(driver, spec.id)), "-a", "-S", "0", "-G", "0", "--"]
    subprocess.run([*enter, "sh", "-c", "echo after-restart >/dev/console"], check=True, timeout=20)
    wait_for_console(driver, spec.id, b"after-restart")


@pytest.mark.parametrize("kind", ["vm", "container"])
def test_half_made_storage_is_made_whole(
    driver: LibvirtDriver, lab: Lab, request: pytest.FixtureRequest, kind: str
) -> None:
    spec = request.getfixturevalue(kind)
    directory = lab.settings.shared_dir / "instances" / spec.id
    directory.mkdir(parents=True)
    if kind == "vm":
        (directory / "disk.qcow2.part").write_bytes(b"half a disk")
    else:
        (directory / "rootfs.part" / "etc").mkdir(parents=True)
    with pytest.raises(Never, match="was not prepared"):
        driver.start(spec, token=1)
    driver.prepare(spec)
    assert driver.start(spec, token=1) == "running"
    assert not list(directory.glob("*.part"))


def test_foreign_domain_is_reported_and_never_touched(driver: LibvirtDriver, lab: Lab, vm: InstanceSpec) -> None:
    connection = libvirt.open(lab.host.qemu_uri)
    xml = f"<domain type='qemu'><name>theirs</name><uuid>{vm.id}</uuid><memory>65536</memory><os><type>hvm</type></os></domain>"
    domain = connection.defineXML(xml)
    try:
        reports = {report.uuid: report for report in driver.list_domains()}
        assert reports[vm.id].instance_id is None
        with pytest.raises(Never) as caught:
            driver.remove(vm.id)
        assert caught.value.code == "foreign_domain"
        assert connection.lookupByUUIDString(vm.id).name() == "theirs"
    finally:
        domain.undefine()
        connection.close()


def test_renamed_instance_keeps_its_domain(driver: LibvirtDriver, vm: InstanceSpec) -> None:
    driver.prepare(vm)
    driver.start(vm, token=1)
    driver.stop(vm.id, graceful_seconds=0)
    assert driver.start(dataclasses.replace(vm, name="other"), token=2) == "running"


def test_unusable_definition_is_never_not_retry(driver: LibvirtDriver, vm: InstanceSpec) -> None:
    driver.prepare(vm)
    with pytest.raises(Never):
        driver.start(dataclasses.replace(vm, vcpus=100_000), token=1)


def test_guests_outlive_the_daemon_and_the_driver_finds_it_again(lab: Lab, vm: InstanceSpec) -> None:
    driver = lab.open_driver()
    driver.prepare(vm)
    driver.start(vm, token=3)
    lab.host.kill_daemon()
    try:
        with pytest.raises(Unknown):
            driver.list_domains()
        with pytest.raises(Unknown):
            driver.start(vm, token=4)
    finally:
        lab.host.start_daemon()
    domain = find_domain(driver, vm.id)
    assert domain is not None
    assert (domain.power, domain.token) == ("running", 3)
    assert driver.start(vm, token=4) == "running"
    driver.remove(vm.id)
    driver.close()


def test_twelve_threads_share_one_driver(driver: LibvirtDriver, lab: Lab) -> None:
    specs = [make_spec("container", image=lab.tree_image, nics=()) for _ in range(6)]
    failures: list[BaseException] = []

    def live(spec: InstanceSpec) -> None:
        try:
            driver.prepare(spec)
            driver.start(spec, token=1)
            driver.list_domains()
            driver.remove(spec.id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert driver.list_domains() == ()


def qemu_pid(instance_id: str) -> int:
    """Return the process of a VM."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"-uuid\0{instance_id}\0".encode() in path.read_bytes():
                return int(path.parent.name)
    raise AssertionError(f"no QEMU runs {instance_id}")


def test_vm_gets_the_processor_and_the_flags_of_its_flavor(driver: LibvirtDriver, vm: InstanceSpec) -> None:
    offered = driver.inventory()
    assert "Nehalem" in offered.cpu_models
    assert "aes" in offered.cpu_flags
    asked = dataclasses.replace(vm, cpu_model="Nehalem", cpu_flags=("aes",))
    driver.prepare(asked)
    assert driver.start(asked, token=1) == "running"
    words = Path(f"/proc/{qemu_pid(vm.id)}/cmdline").read_bytes().decode().split("\0")
    assert words[words.index("-cpu") + 1] == "Nehalem,aes=on"


def test_processor_that_the_host_does_not_know_is_refused_for_good(driver: LibvirtDriver, vm: InstanceSpec) -> None:
    asked = dataclasses.replace(vm, cpu_model="Nonsuch")
    driver.prepare(asked)
    with pytest.raises(Never):
        driver.start(asked, token=1)


def test_numa_cells_are_those_of_the_kernel(driver: LibvirtDriver) -> None:
    cells = driver.inventory().numa
    assert cells
    for cell in cells:
        folder = Path(f"/sys/devices/system/node/node{cell.id}")
        listed = (folder / "cpulist").read_text().strip()
        assert set(cell.cpus) == {
            cpu for part in listed.split(",") for cpu in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        }
        total = next(line for line in (folder / "meminfo").read_text().splitlines() if "MemTotal" in line)
        assert cell.memory_mib == pytest.approx(int(total.split()[-2]) // 1024, abs=1)


def test_proof_boots_real_guests_says_which_mode_won_and_leaves_nothing(driver: LibvirtDriver, lab: Lab) -> None:
    proof = driver.prove()
    assert proof.ok, proof.steps
    assert proof.vm_mode in ("kvm", "qemu")
    assert driver.capabilities().modes == (proof.vm_mode, "lxc")
    assert proof.inventory.shared_storage_id == STORAGE_ID
    told = {step.name: step.detail for step in proof.steps}
    assert "reached its init" in told["vm"]
    assert "kvm:" in told["vm"]
    assert "100000" in told["container"]
    assert driver.list_domains() == ()
    assert list(lab.settings.shared_dir.glob(".proof-*")) == []


def test_proof_fails_by_name_without_its_kernel_and_without_storage(driver: LibvirtDriver, lab: Lab) -> None:
    kernel, marker = lab.settings.shared_dir / "proof" / "kernel", lab.settings.shared_dir / ".cenote-storage"
    for path in (kernel, marker):
        path.rename(path.with_name(path.name + "-away"))
    try:
        proof = driver.prove()
    finally:
        for path in (kernel, marker):
            path.with_name(path.name + "-away").rename(path)
    assert not proof.ok
    assert proof.vm_mode is None
    assert {step.name for step in proof.steps if not step.ok} == {"storage", "vm"}


def test_vm_runs_where_qemu_is_not_root_and_its_image_is_not_hashed_again(tiny_images: Path) -> None:
    """As on a real machine: libvirt hands the files to QEMU's own user at each start."""
    with private_host(qemu_user="libvirt-qemu") as host:
        lab = furnish(host, tiny_images)
        driver = lab.open_driver()
        spec = make_spec("vm", image=lab.vm_image, memory_mib=128)
        driver.prepare(spec)
        known = (lab.settings.local_dir / "images.json").stat().st_mtime_ns
        driver.start(spec, token=1)
        wait_for_console(driver, spec.id, b"login:")
        driver.prepare(make_spec("vm", image=lab.vm_image))
        assert (lab.settings.local_dir / "images.json").stat().st_mtime_ns == known
        driver.remove(spec.id)
        assert find_domain(driver, spec.id) is None
        driver.close()


def test_network_of_another_instance_is_left_alone(driver: LibvirtDriver, lab: Lab) -> None:
    kept = make_spec("container", image=lab.tree_image)
    gone = make_spec("container", image=lab.tree_image)
    for spec in (kept, gone):
        driver.prepare(spec)
    driver.remove(gone.id)
    driver.remove(str(uuid.uuid4()))
    assert kept.nics[0].device in lab.network.ports
