"""A lab host's control groups go with it, and nobody else's do."""

from __future__ import annotations

from pathlib import Path

from deploy.labhosts.groups import drop_groups


def test_groups_of_a_host_go_in_every_controller_and_others_stay(tmp_path: Path) -> None:
    gone, kept = "machine/cenoteaa.partition", "machine/cenotebb.partition/tenant.partition"
    for top in (tmp_path, tmp_path / "cpu", tmp_path / "memory"):
        (top / gone / "tenant.partition" / "own.partition" / "lxc-7-guest.libvirt-lxc").mkdir(parents=True)
        (top / kept).mkdir(parents=True)
    drop_groups("cenoteaa", tmp_path)
    for top in (tmp_path, tmp_path / "cpu", tmp_path / "memory"):
        assert not (top / gone).exists()
        assert (top / kept).is_dir()


def test_group_of_a_containers_process_limit_goes_with_its_host(tmp_path: Path) -> None:
    limit = tmp_path / "pids" / "machine" / "cenoteaa.partition" / "an-instance"
    limit.mkdir(parents=True)
    drop_groups("cenoteaa", tmp_path)
    assert not limit.parent.exists()


def test_group_with_something_in_it_stays(tmp_path: Path) -> None:
    inside = tmp_path / "cpu" / "machine" / "cenoteaa.partition" / "tenant.partition"
    inside.mkdir(parents=True)
    (inside / "process").write_text("")  # as a process keeps a real group
    drop_groups("cenoteaa", tmp_path, seconds=0.1)
    assert inside.is_dir()
