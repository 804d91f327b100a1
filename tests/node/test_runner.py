"""The runner in this process, with a driver that does what the test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compute.node.client import ApiRefused, ApiUnavailable, Fetched
from compute.node.journal import Journal
from compute.node.methods import LANES
from compute.node.runner import IN_HAND_LIMIT, Runner
from compute.wire import Call, CallAnswer, CallError
from tests.node.control import wait_for
from tests.node.orders import a_call, an_id


class Api:
    """nodeapi without a wire. `refusal` is raised for every answer while it is set."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: list[Call] = []
        self.unreadable: list[CallAnswer] = []
        self.answers: list[CallAnswer] = []
        self.fetches = 0
        self.refusal: Exception | None = None

    def fetch(self, *, limit: int, in_hand: list[str]) -> Fetched:
        with self.lock:
            self.fetches += 1
            given, self.waiting = self.waiting[:limit], self.waiting[limit:]
            unreadable, self.unreadable = self.unreadable, []
            return Fetched(tuple(given), tuple(unreadable))

    def answer(self, answer: CallAnswer) -> None:
        if self.refusal is not None:
            raise self.refusal
        with self.lock:
            self.answers.append(answer)

    def codes(self, call: Call) -> list[str]:
        with self.lock:
            mine = [answer for answer in self.answers if answer.call_id == call.id]
        return [answer.error.code if answer.error else answer.outcome for answer in mine]


class Executor:
    """Counts; calls in `held` wait until they are let go; calls in `broken` raise."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun: list[str] = []
        self.running: dict[str, int] = {}
        self.most_of_a_target = 0
        self.held: dict[str, threading.Event] = {}
        self.broken: set[str] = set()

    def hold(self, *calls: Call) -> threading.Event:
        event = threading.Event()
        self.held |= {call.id: event for call in calls}
        return event

    def run(self, call: Call) -> CallAnswer:
        with self.lock:
            self.begun.append(call.id)
            self.running[call.target_id] = self.running.get(call.target_id, 0) + 1
            self.most_of_a_target = max(self.most_of_a_target, self.running[call.target_id])
        if call.id in self.held:
            self.held[call.id].wait(20)
        with self.lock:
            self.running[call.target_id] -= 1
        if call.id in self.broken:
            raise RuntimeError("a bug")
        return CallAnswer(call.id, call.token, "done")


class Node:
    def __init__(self, file: Path) -> None:
        self.api, self.executor, self.journal = Api(), Executor(), Journal(file)
        self.finished = 0
        self.runner = Runner(self.api, self.journal, self.executor, sweep_seconds=0.05, on_finished=self._count)
        self.thread = threading.Thread(target=self.runner.run, daemon=True)

    def _count(self) -> None:
        self.finished += 1

    def order(self, *calls: Call) -> None:
        with self.api.lock:
            self.api.waiting += calls
        self.runner.wake()

    def wait(self, *calls: Call, seconds: float = 5.0) -> None:
        for call in calls:
            wait_for(lambda call=call: bool(self.api.codes(call)), seconds, call.method)  # type: ignore[misc]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "journal.sqlite")
    made.thread.start()
    yield made
    for event in made.executor.held.values():
        event.set()
    made.runner.stop(2)


def test_sent_24_times_run_once(node: Node) -> None:
    call = a_call("instance.start", an_id())
    gate = node.executor.hold(call)
    for _ in range(24):
        node.order(call)
    wait_for(lambda: not node.api.waiting, 5, "the fetches")
    gate.set()
    node.wait(call)
    for _ in range(3):
        node.order(call)
    wait_for(lambda: len(node.api.codes(call)) >= 2, 5, "the answer, again")
    assert node.executor.begun == [call.id]


def test_one_call_of_a_target_at_a_time_in_order(node: Node) -> None:
    target = an_id()
    calls = [a_call(method, target) for method in ("instance.prepare", "instance.start", "instance.stop") * 5]
    node.order(*calls)
    node.wait(*calls)
    assert node.executor.most_of_a_target == 1
    assert node.executor.begun == [call.id for call in calls]


def test_slow_calls_do_not_hold_up_quick_ones(node: Node) -> None:
    slow = [a_call("host.prove", an_id()), *(a_call("instance.stop", an_id()) for _ in range(LANES["waiting"] + 3))]
    gate = node.executor.hold(*slow)
    node.order(*slow)
    wait_for(lambda: len(node.runner.in_hand()) == len(slow), 5, "the slow calls")
    quick = [a_call(method, an_id()) for method in ("instance.start", "instance.remove", "instance.prepare")]
    node.order(*quick)
    node.wait(*quick, seconds=2)
    assert len(node.executor.begun) == LANES["waiting"] + len(quick)
    gate.set()
    node.wait(*slow)


def test_no_more_in_hand_than_fits(node: Node) -> None:
    calls = [a_call("instance.start", an_id()) for _ in range(IN_HAND_LIMIT + 20)]
    gate = node.executor.hold(*calls)
    node.order(*calls)
    wait_for(lambda: len(node.runner.in_hand()) == IN_HAND_LIMIT, 5, "a full hand")
    time.sleep(0.2)
    assert len(node.api.waiting) == 20
    gate.set()
    node.wait(*calls)


def test_a_bug_is_an_unknown_and_the_lane_lives_on(node: Node) -> None:
    calls = [a_call("instance.start", an_id()) for _ in range(LANES["quick"] * 3)]
    node.executor.broken = {call.id for call in calls}
    node.order(*calls)
    node.wait(*calls)
    assert {code for call in calls for code in node.api.codes(call)} == {"worker_fault"}
    good = a_call("instance.start", an_id())
    node.order(good)
    node.wait(good)
    # Told a moment after the answer was taken.
    wait_for(lambda: node.finished == len(calls) + 1, 5, "each call to be over")


def test_cancelled_before_it_began_it_never_runs(node: Node) -> None:
    target = an_id()
    first, second, third = (a_call("instance.start", target) for _ in range(3))
    gate = node.executor.hold(first)
    node.order(first, second, third)
    wait_for(lambda: len(node.runner.in_hand()) == 3, 5, "three calls in hand")
    node.runner.cancel((second.id, "nobody's"))
    gate.set()
    node.wait(first, third)
    assert node.executor.begun == [first.id, third.id]
    # An answer leaves the hands of the runner a moment after it was taken.
    wait_for(lambda: node.runner.in_hand() == (), 5, "empty hands")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_host_keeps_its_answers(node: Node, status: int) -> None:
    call = a_call("instance.start", an_id())
    node.api.refusal = ApiRefused(status, "token_invalid")
    node.order(call)
    wait_for(lambda: node.finished == 1, 5, "the call's end")
    node.api.refusal = None
    node.wait(call)


def test_an_unwanted_answer_is_offered_once(node: Node) -> None:
    call = a_call("instance.start", an_id())
    node.api.refusal = ApiRefused(409, "stale_answer")
    node.order(call)
    wait_for(lambda: node.finished == 1, 5, "the call's end")
    node.api.refusal = None
    time.sleep(0.3)
    assert node.api.answers == []
    assert node.journal.undelivered() == []


def test_an_hour_off_costs_no_memory_and_no_answer(node: Node) -> None:
    calls = [a_call("instance.start", an_id()) for _ in range(150)]  # more than one page of undelivered answers
    node.api.refusal = ApiUnavailable("gone")
    for start in range(0, len(calls), 50):
        node.order(*calls[start : start + 50])
        wait_for(lambda start=start: node.finished >= start + 50, 10, "the calls' ends")  # type: ignore[misc]
        assert node.runner.in_hand() == ()
    node.api.refusal = None
    node.wait(*calls)
    assert sorted(node.executor.begun) == sorted(call.id for call in calls)


def test_an_order_that_cannot_be_read_is_parked(node: Node) -> None:
    parked = CallAnswer(an_id(), 3, "retry", error=CallError("unreadable_call", "no such field"))
    good = a_call("instance.start", an_id())
    with node.api.lock:
        node.api.unreadable.append(parked)
    node.order(good)
    node.wait(good)
    assert parked in node.api.answers


def test_a_flood_of_rings_is_a_trickle_of_questions(node: Node) -> None:
    before, until = node.api.fetches, time.monotonic() + 1.0
    while time.monotonic() < until:
        node.runner.wake()
    assert node.api.fetches - before <= 60


def test_stop_begins_nothing_new(node: Node) -> None:
    target = an_id()
    first, second = a_call("instance.start", target), a_call("instance.stop", target)
    gate = node.executor.hold(first)
    node.order(first, second)
    wait_for(lambda: len(node.runner.in_hand()) == 2, 5, "both calls in hand")
    assert node.runner.stop(0.1) is False
    gate.set()
    assert node.runner.wait_idle(2)
    node.thread.join(2)
    assert not node.thread.is_alive()
    assert node.executor.begun == [first.id]
    assert node.api.codes(first) == ["done"]
