"""What outlived a killed supervisor is found by what it was given at its start, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.steps import orphans
from deploy.steps.place import Place

Start = Callable[..., subprocess.Popen[bytes]]
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(state=tmp_path / "cloud", venv=tmp_path / "venv", port=1)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process as a supervisord of that cloud would have; all of them end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(place: Place | None, *command: str, executable: str | None = None) -> subprocess.Popen[bytes]:
        env = dict(os.environ)
        if place is not None:
            env["SUPERVISOR_SERVER_URL"] = f"unix://{place.private / 'supervisor.sock'}"
        started.append(subprocess.Popen(command, env=env, executable=executable, stdout=subprocess.PIPE))
        # Popen returns a moment before the kernel has laid out the new command line.
        while not Path(f"/proc/{started[-1].pid}/cmdline").read_bytes():
            time.sleep(0.01)
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_only_processes_of_this_cloud_are_found(place: Place, start: Start, tmp_path: Path) -> None:
    ours = start(place, "sleep", "600")
    start(None, "sleep", "600")
    start(Place(state=tmp_path / "cloud2", venv=place.venv, port=2), "sleep", "600")
    assert set(orphans.find(place)) == {ours.pid}


def test_dhcp_servers_are_left_to_the_guests(place: Place, start: Start) -> None:
    start(place, "/usr/sbin/dnsmasq", "600", executable="/bin/sleep")
    assert orphans.find(place) == {}


def test_a_database_is_known_by_its_directory_and_asked_to_end_fast(place: Place, start: Start, tmp_path: Path) -> None:
    # PostgreSQL overwrites its environment. bash, called by that name, waits for the pipe that stands for the data.
    ours, others = place.state / "postgres", tmp_path / "cloud2" / "postgres"
    for pipe in (ours, others):
        pipe.parent.mkdir()
        os.mkfifo(pipe)
    processes = [
        start(None, "/usr/lib/postgresql/15/bin/postgres", "-D", str(pipe), executable="/bin/bash")
        for pipe in (ours, others)
    ]
    assert orphans.find(place) == {processes[0].pid: signal.SIGINT}


def test_what_does_not_obey_is_killed(place: Place, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "GRACE_SECONDS", 0.5)
    stubborn, tame = start(place, sys.executable, "-c", STUBBORN), start(place, "sleep", "600")
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    assert orphans.end(place) == 2
    assert stubborn.wait(5) == -signal.SIGKILL
    assert tame.wait(5) == -signal.SIGTERM
    assert orphans.end(place) == 0
