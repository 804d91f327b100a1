from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compute.node.drivers.fake import FakeHost
from compute.wire import HeartbeatAnswer
from tests.node.conftest import REPO
from tests.node.control import Control, wait_for
from tests.node.orders import a_call, an_id

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def fleet(place: Path, control: Control) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(count: int, *tokens: str) -> subprocess.Popen[bytes]:
        (place / "tokens").write_text("\n".join(tokens))
        options = {"api": f"http+unix://{control.socket}", "state-dir": place / "fleet", "tokens": place / "tokens"}
        command = [sys.executable, "-m", "compute.node.fleet", "--count", str(count)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        process = subprocess.Popen(command, cwd=REPO, env={"PATH": os.environ["PATH"]}, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_forty_hosts_in_one_process(fleet: Start, control: Control, place: Path) -> None:
    tokens = [f"join-{number}" for number in range(40)]
    control.join_tokens |= set(tokens)
    control.tuning = HeartbeatAnswer(heartbeat_seconds=2.0, sweep_seconds=1.0)
    process = fleet(40, *tokens)
    wait_for(lambda: control.fetches >= 40 and len(control.reports) >= 40, 30, "the fleet")
    assert control.join_tokens == set()
    names = [f"fake{number:03d}" for number in range(1, 41)]
    calls = {name: a_call("instance.prepare", an_id()) for name in names}
    began = time.monotonic()
    for name, call in calls.items():
        control.order(call, host=name)
    wait_for(lambda: len(control.answered_by) == 40, 30, "an answer of each host")
    assert {call.id: name for name, call in calls.items()} == control.answered_by
    assert Counter(answer.outcome for answer in control.answers) == {"done": 40}
    assert time.monotonic() - began < 15
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    assert resident < 300, f"{resident:.0f} MiB"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    # The same hosts, with what was on them, and without new tokens.
    fetches = control.fetches
    fleet(40)
    wait_for(lambda: control.fetches >= fetches + 40, 30, "the fleet's return")
    assert list(FakeHost.load(place / "fleet" / "fake007" / "fake.json").disks) == [calls["fake007"].target_id]


def test_without_a_token_there_is_no_host(fleet: Start, control: Control) -> None:
    process = fleet(1, "stolen")
    assert process.wait(10) == 1
    assert process.stderr is not None
    assert b"join_refused" in process.stderr.read()
    assert fleet(1).wait(10) == 1
