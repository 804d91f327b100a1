"""The watchdog with its real child process, and the fake driver in that."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compute.node import hypervisor as module
from compute.node.drivers.fake import FakeHost
from compute.node.drivers.faults import Fault
from compute.node.hypervisor import Hypervisor
from compute.wire import CallAnswer
from tests.node.conftest import children_of
from tests.node.control import wait_for
from tests.node.orders import a_call, a_spec, an_id

Make = Callable[..., Hypervisor]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Hypervisor] = []

    def build(*faults: Fault) -> Hypervisor:
        (tmp_path / "local").mkdir(exist_ok=True)
        FakeHost.load(tmp_path / "local" / "fake.json").inject(*faults)
        env = {
            "PATH": os.environ["PATH"],
            **{f"CENOTE_NODE_{name}": an_id() for name in ("ID", "TOKEN", "API")},
            **{f"CENOTE_NODE_{name}": "4096" for name in ("VCPUS", "MEMORY_MIB", "DISK_GIB")},
            "CENOTE_NODE_DRIVER": "fake",
            "CENOTE_NODE_LOCAL_DIR": str(tmp_path / "local"),
            "CENOTE_NODE_SHARED_DIR": str(tmp_path),
        }
        made.append(Hypervisor(env, grace_seconds=0.2))
        return made[-1]

    yield build
    for hypervisor in made:
        hypervisor.close()


def code(answer: CallAnswer) -> str:
    return answer.error.code if answer.error else answer.outcome


def in_thread(hypervisor: Hypervisor, *calls: object) -> list[CallAnswer]:
    answers: list[CallAnswer] = []
    for call in calls:
        threading.Thread(target=lambda call=call: answers.append(hypervisor.run(call)), daemon=True).start()
    return answers


def test_a_hung_call_ends_at_its_deadline_and_takes_the_others_along(make: Make) -> None:
    hypervisor, beside = make(Fault("stop", "hang"), Fault("remove", "hang")), a_call("instance.remove", an_id())
    assert hypervisor.domains() == ()
    others = in_thread(hypervisor, beside)
    began = time.monotonic()
    answer = hypervisor.run(a_call("instance.stop", an_id(), deadline=0.5, graceful_seconds=0))
    assert (answer.outcome, code(answer)) == ("unknown", "watchdog")
    assert 0.5 <= time.monotonic() - began < 2
    assert answer.seconds >= 0.5
    wait_for(lambda: len(others) == 1, 1, "the other call's end")
    assert (others[0].outcome, code(others[0])) == ("unknown", "hypervisor_lost")
    assert hypervisor.run(a_call("instance.prepare", an_id())).outcome == "done"


@pytest.mark.parametrize("kind", ["crash", "crash_after"])
def test_a_death_in_a_call_is_an_unknown(make: Make, kind: str) -> None:
    hypervisor = make(Fault("start", kind))  # type: ignore[arg-type]
    spec = a_spec(an_id()).to_json()
    assert hypervisor.run(a_call("instance.prepare", spec["id"], spec=spec)).outcome == "done"
    answer = hypervisor.run(a_call("instance.start", spec["id"], spec=spec))
    assert (answer.outcome, code(answer)) == ("unknown", "hypervisor_lost")
    assert hypervisor.run(a_call("instance.start", spec["id"], spec=spec)).result == {"power": "running"}


def test_kill_9_of_the_child(make: Make) -> None:
    hypervisor = make()
    assert hypervisor.domains() == ()
    for _ in range(2):
        pid = hypervisor.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: hypervisor.pid() is None, 2, "its death")  # type: ignore[misc]
        assert hypervisor.run(a_call("instance.prepare", an_id())).outcome == "done"  # it waits for the pause, too


def test_a_frozen_child_that_reads_nothing_blocks_nobody(make: Make) -> None:
    hypervisor = make()
    assert hypervisor.domains() == ()
    pid = hypervisor.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    huge = a_call("instance.prepare", an_id(), deadline=0.5, user_data="x" * 1_000_000)  # more than a pipe holds
    answers = in_thread(hypervisor, huge, a_call("instance.remove", an_id(), deadline=0.5))
    wait_for(lambda: len(answers) == 2, 3, "the ends of both")
    assert {answer.outcome for answer in answers} == {"unknown"}
    assert "watchdog" in {code(answer) for answer in answers}
    assert hypervisor.run(a_call("instance.prepare", an_id())).outcome == "done"


def test_a_poison_call_is_not_begun_faster_than_the_pause_allows(make: Make) -> None:
    hypervisor = make(Fault("start", "crash", times=-1))
    began = time.monotonic()
    while time.monotonic() - began < 4:
        assert hypervisor.run(a_call("instance.start", an_id(), deadline=0.3)).outcome == "unknown"
        hypervisor.domains()
    assert hypervisor._deaths <= 4  # pauses of 0.5, 1, 2 and 4 seconds


def test_five_hangs_leave_looks_and_quick_calls_alone(make: Make) -> None:
    hypervisor = make(Fault("stop", "hang", times=-1))
    hung = in_thread(hypervisor, *(a_call("instance.stop", an_id(), graceful_seconds=5) for _ in range(5)))
    began = time.monotonic()
    assert hypervisor.run(a_call("instance.prepare", an_id())).outcome == "done"
    assert hypervisor.domains() == ()
    assert hypervisor.inventory() is not None
    assert time.monotonic() - began < 3
    assert hung == []


def test_a_look_that_fails_is_none_and_kills_nobody(make: Make) -> None:
    hypervisor = make(Fault("list_domains", "unknown", times=2))
    assert hypervisor.domains() is None
    pid = hypervisor.pid()
    assert hypervisor.domains() is None
    assert hypervisor.domains() == ()
    assert hypervisor.pid() == pid


@pytest.fixture
def slow_start(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hypervisor:
    """A child whose Python takes longer to start than a look may take, as on a machine under translation."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text("import time\ntime.sleep(2)\n")
    monkeypatch.setattr(module, "LOOK_SECONDS", 1.0)
    hypervisor = make()
    hypervisor._env["PYTHONPATH"] = f"{tmp_path / 'slow'}:{os.getcwd()}"
    return hypervisor


def test_a_slow_start_is_not_taken_for_a_slow_look(slow_start: Hypervisor) -> None:
    assert slow_start.domains() == ()
    first = slow_start.pid()
    assert slow_start.disks() == ()
    assert slow_start.pid() == first is not None


def test_a_slow_start_is_not_taken_for_a_slow_call(slow_start: Hypervisor) -> None:
    slow_start._grace = 0.1
    answer = slow_start.run(a_call("instance.console_log", an_id(), deadline=1, max_bytes=100))
    assert answer.error is None or answer.error.code not in ("watchdog", "hypervisor_lost"), answer
    assert slow_start.pid() is not None


def test_a_child_that_does_not_start_is_put_down(slow_start: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.5)
    assert slow_start.domains() is None
    assert slow_start.pid() is None
    answer = slow_start.run(a_call("instance.prepare", an_id()))
    assert (answer.outcome, answer.error and answer.error.code) == ("unknown", "hypervisor_lost")


def test_close_ends_what_runs_at_once(make: Make) -> None:
    hypervisor = make(Fault("stop", "hang"))
    assert hypervisor.domains() == ()
    pid = hypervisor.pid()
    answers = in_thread(hypervisor, a_call("instance.stop", an_id(), deadline=60, graceful_seconds=5))
    time.sleep(0.3)
    hypervisor.close()
    wait_for(lambda: len(answers) == 1, 2, "the call's end")
    assert answers[0].outcome == "unknown"
    wait_for(lambda: pid not in children_of(os.getpid()), 2, "the child's end")
    assert hypervisor.run(a_call("instance.prepare", an_id())).outcome == "unknown"
