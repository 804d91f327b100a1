"""`deploy/up` on a Debian 12 whose PID 1 is systemd: its units, reboots, `deploy/down`, data that comes back, nothing left."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.steps import service
from deploy.steps.place import Place
from tests.cloud.nspawn import CHECKOUT, SystemdMachine, missing
from tests.images.conftest import build, build_environment

pytestmark = [
    pytest.mark.cloud,
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

GUESTS = {"first-vm": "running", "first-container": "running"}
# The cloud's place as the machine sees it.
INSIDE = Place(state=Path(CHECKOUT, "var"), venv=Place.here().venv, port=0)
UNIT, PROCESSES = service.cloud_name(INSIDE), service.supervisor_name(INSIDE)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SystemdMachine]:
    cache = Path(build_environment()["CACHE"])
    for builder in ("build-tiny-vm", "build-tiny-container"):
        build(builder, tmp_path)
    with SystemdMachine(Place.here().state / "systemd-machine", cache=cache / "systemd", venv=INSIDE.venv) as machine:
        # It has no way to a mirror: its packages are there already, and those that images are made of come now.
        shutil.copytree(
            *(cache, below(machine, INSIDE.images / ".cache")),
            symlinks=True,
            ignore=shutil.ignore_patterns("systemd", "debian-12"),
        )
        yield machine


def test_a_cloud_lives_by_systemds_units(machine: SystemdMachine) -> None:
    deploy(machine, "up")
    check_that_packages_run_nothing(machine)
    check_units(machine)
    check_guests(machine)
    for name in GUESTS:
        in_guest(machine, name, "echo kept >~/file && sync")

    before = processes(machine)
    deploy(machine, "up", seconds=90)  # alone on a machine, 4 s
    assert processes(machine) == before

    machine.reboot()
    check_units(machine)
    check_guests(machine, file="kept")
    assert was_shut_down(machine)

    # A supervisor that is killed leaves its children; guests must not notice that the next one takes their place.
    before = guest_processes(machine)
    machine.root(f"systemctl kill --kill-whom=main --signal=KILL {PROCESSES}")
    wait("the loss to be seen", lambda: state(machine, PROCESSES) == "failed", 10)
    deploy(machine, "up")
    check_units(machine)
    assert guest_processes(machine) == before

    machine.root(f"systemctl stop {UNIT}", timeout=240)
    assert own_processes(machine) == []
    machine.root(f"systemctl start {UNIT}", timeout=600)
    check_units(machine)
    check_guests(machine, file="kept")

    deploy(machine, "down", seconds=240)
    check_that_nothing_is_left(machine)
    machine.reboot()
    check_that_nothing_is_left(machine)

    deploy(machine, "up")
    check_units(machine)
    check_guests(machine, file="kept")

    deploy(machine, "down --purge", seconds=240)
    check_that_nothing_is_left(machine)
    assert [entry.name for entry in below(machine, INSIDE.state).iterdir()] == []
    assert machine.root("journalctl --boot --priority=err --no-pager --quiet --unit='cenote-*'") == ""


def deploy(machine: SystemdMachine, words: str, *, seconds: float = 900) -> str:
    return machine.root(f"CENOTE_VENV={INSIDE.venv} {CHECKOUT}/deploy/{words}", timeout=seconds)


def client(machine: SystemdMachine, words: str) -> str:
    return machine.root(f". {INSIDE.state}/demo.env; CENOTE_VENV={INSIDE.venv} {CHECKOUT}/deploy/cenote {words}")


def in_guest(machine: SystemdMachine, name: str, command: str) -> str:
    return client(machine, f"ssh {name} -- '{command}'")


def state(machine: SystemdMachine, unit: str) -> str:
    return machine.root(f"systemctl show --property=ActiveState --value {unit}")


def check_that_packages_run_nothing(machine: SystemdMachine) -> None:
    """No PostgreSQL, Redis or libvirt of Debian's runs, nor will at the next boot."""
    theirs = re.compile("virt|postgres|redis|dnsmasq|nftables")
    for listed in ("list-units --type=service,socket", "list-unit-files --state=enabled"):
        lines = machine.root(f"systemctl {listed} --no-legend --plain").splitlines()
        assert [line for line in lines if theirs.search(line.split()[0])] == []


def check_units(machine: SystemdMachine) -> None:
    assert state(machine, UNIT) == state(machine, PROCESSES) == "active"
    assert machine.root(f"systemctl is-enabled {UNIT}") == "enabled"
    # All that runs is in the one service, so that systemd ends none of it before its time.
    assert {group for _, group in own_processes(machine)} == {PROCESSES}
    journal = machine.root(f"journalctl --boot --no-pager --output=cat --unit={UNIT}")
    assert "Web and workers" in journal
    said = json.loads((below(machine, INSIDE.state) / "demo.json").read_text())
    secrets = {name: text for name, text in said.items() if name.endswith(("password", "token"))}
    assert len(secrets) >= 5
    everything = machine.root("journalctl --no-pager --output=cat")
    assert [name for name, text in secrets.items() if text in everything] == []


def check_guests(machine: SystemdMachine, *, file: str | None = None) -> None:
    """The first VM and container are up, answer by their names, and have what was written before; the books add up."""
    rows = json.loads(client(machine, "instance list --output json"))
    assert {row["name"]: row["status"] for row in rows} == GUESTS
    for name in GUESTS:
        assert in_guest(machine, name, "hostname") == name
        if file is not None:
            assert in_guest(machine, name, "cat ~/file") == file
    wait("a clean audit", lambda: audit(machine).startswith("0 violations"), 75)


def audit(machine: SystemdMachine) -> str:
    environment = "DJANGO_SETTINGS_MODULE=cloud.settings PYTHONDONTWRITEBYTECODE=1"
    command = f"{environment} {INSIDE.venv}/bin/python {CHECKOUT}/manage.py audit || test $? = 1"
    return machine.root(f"set -a; . {INSIDE.state}/cloud.env; {command}")


def own_processes(machine: SystemdMachine) -> list[tuple[int, str]]:
    """Return process and systemd's unit of everything that runs of the cloud: its programs and guests."""
    found = []
    for line in machine.root("ps -e -o pid= -o unit= -o args=").splitlines():
        pid, unit, command = line.split(None, 2)
        if re.match(
            rf"{re.escape(str(INSIDE.venv))}/bin/|\S*(postgres|redis-server|virtlogd|libvirt|qemu|dnsmasq)", command
        ):
            found.append((int(pid), unit))
    return found


def processes(machine: SystemdMachine) -> dict[str, str]:
    """Return program -> process id, and since when the cloud's unit has been up."""
    said = machine.root(f"{INSIDE.venv}/bin/supervisorctl -c {INSIDE.state}/supervisord.conf status")
    found = {line.split()[0]: " ".join(line.split()[1:4]) for line in said.splitlines()}
    return found | {UNIT: machine.root(f"systemctl show --property=ActiveEnterTimestampMonotonic --value {UNIT}")}


def guest_processes(machine: SystemdMachine) -> list[str]:
    """Return the processes that are the guests: QEMU, and the container's supervisor."""
    return machine.root("pgrep -x 'qemu-system-x86|libvirt_lxc'").split()


def was_shut_down(machine: SystemdMachine) -> bool:
    """Return whether PostgreSQL found at its last start that it had been shut down in good order."""
    log = (below(machine, INSIDE.state) / "log" / "postgres.log").read_text()
    return (
        re.findall("database system (was shut down at|was interrupted|was not properly)", log)[-1] == "was shut down at"
    )


def check_that_nothing_is_left(machine: SystemdMachine) -> None:
    assert own_processes(machine) == []
    assert machine.root("systemctl list-units --all --no-legend 'cenote-*'") == ""
    assert machine.root("systemctl list-unit-files --no-legend 'cenote-*' || true") == ""
    assert machine.root("find /etc/systemd /run/systemd/system /run/systemd/transient -name '*cenote*'") == ""
    assert machine.root("ip netns list") == ""


def below(machine: SystemdMachine, path: Path) -> Path:
    """Return where a path of the machine is seen from here."""
    return machine.disk / path.relative_to("/")


def wait(what: str, true: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        time.sleep(1)
