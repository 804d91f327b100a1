"""What the kernel can limit, read from file trees as both versions lay them out; the real version 1 is in the lab tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compute.node.drivers.libvirt import cgroups as module
from compute.node.drivers.libvirt.cgroups import Cgroups, detect, forbid_swap, forget_processes, limit_processes


def make_v2(root: Path, controllers: str) -> Path:
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").write_text("cpu memory")
    group = root / "machine.slice" / "machine-lxc.scope" / "libvirt"
    for directory in (group, group.parent, group.parent.parent):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.subtree_control").write_text("")
        (directory / "pids.max").write_text("max")
    return group


def place(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Have this process look as if it were in that version 2 group."""
    monkeypatch.setattr(module, "_group_of", lambda cgroups, pid, controller: cgroups.root / path)


def test_version_2_is_known_by_its_controllers(tmp_path: Path) -> None:
    make_v2(tmp_path, "cpuset cpu io memory pids\n")
    found = detect(tmp_path)
    assert found.version == 2
    assert found.missing == ("io_weight",)  # no group has io.weight: the scheduler of no disk offers it
    (tmp_path / "machine.slice" / "io.weight").write_text("default 100")
    assert detect(tmp_path).missing == ()


def test_version_2_io_weight_is_known_before_any_group_has_the_controller(tmp_path: Path) -> None:
    make_v2(tmp_path, "cpuset cpu io memory pids\n")
    (tmp_path / "io.cost.qos").write_text("")
    assert detect(tmp_path).missing == ()


def test_version_2_without_pids_says_so(tmp_path: Path) -> None:
    make_v2(tmp_path, "cpu memory")
    assert detect(tmp_path).missing == ("io_weight", "pids")


def test_no_control_groups_is_version_0(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert (found.version, found.features) == (0, frozenset())


def test_version_1_features_come_from_a_group_below_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for controller in ("cpu", "memory", "pids"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "cgroup.procs").write_text("")
    real = Path.mkdir

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        real(path, mode, parents, exist_ok)
        for name in {"cpu": ["cpu.shares"], "memory": ["memory.limit_in_bytes"], "pids": []}[path.parent.name]:
            (path / name).write_text("")  # the kernel fills a new group

    monkeypatch.setattr(Path, "mkdir", mkdir)
    found = detect(tmp_path)
    assert found.version == 1
    assert found.missing == ("cpu_quota", "io_weight", "pids")


def test_version_2_limit_is_the_innermost_groups_and_its_controller_enabled_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_v2(tmp_path, "cpu memory pids")
    place(monkeypatch, "machine.slice/machine-lxc.scope/libvirt")
    cgroups = detect(tmp_path)
    assert limit_processes(cgroups, instance_id="a", controller_pid=1, limit=77)
    assert (group / "pids.max").read_text() == "77"
    # systemd's own: it would write it anew.
    assert (group.parent / "pids.max").read_text() == "max"
    for above in (tmp_path, group.parent.parent, group.parent):
        assert (above / "cgroup.subtree_control").read_text() == "+pids"
    forget_processes(cgroups, "a")


def test_version_2_forbids_swap_where_the_kernel_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = make_v2(tmp_path, "cpu memory pids")
    place(monkeypatch, "machine.slice/machine-lxc.scope/libvirt")
    forbid_swap(detect(tmp_path), 1)
    assert not (group / "memory.swap.max").exists()
    (group / "memory.swap.max").write_text("max")
    forbid_swap(Cgroups(1, frozenset(), tmp_path), 1)
    assert (group / "memory.swap.max").read_text() == "max"
    forbid_swap(detect(tmp_path), 1)
    assert (group / "memory.swap.max").read_text() == "0"


def test_limit_that_cannot_be_set_is_told(tmp_path: Path) -> None:
    nothing = Cgroups(1, frozenset(), tmp_path)
    assert not limit_processes(nothing, instance_id="a", controller_pid=os.getpid(), limit=5)
    gone = Cgroups(1, frozenset({"pids"}), tmp_path)
    assert not limit_processes(gone, instance_id="a", controller_pid=2**22 - 1, limit=5)
