"""The whole worker: its own process, a real Redis, nodeapi over a unix socket, a fake host behind it."""

from __future__ import annotations

import json
import signal
import time
from functools import partial
from pathlib import Path

from compute.broker_acl import broker_password, queue_name
from compute.node.drivers.faults import Fault
from compute.wire import HeartbeatAnswer
from tests.node.conftest import SECRET_KEY, Broker, Worker, children_of
from tests.node.control import TOKEN, Control, wait_for
from tests.node.orders import a_call, an_id


def listening(worker: Worker, control: Control) -> None:
    """Start it and wait until it listens and has swept for the first time."""
    fetches, reports = control.fetches, len(control.reports)
    worker.start()
    wait_for(lambda: control.fetches > fetches and len(control.reports) > reports, 15, "the worker's start")


def subscribed(broker: Broker, worker: Worker) -> None:
    def waits() -> bool:
        clients = broker.client().client_list()
        return any(c["user"] == f"host-{worker.host_id}" and c["cmd"] == "brpop" for c in clients)

    wait_for(waits, 15, "the doorbell's subscription")


def test_a_doorbell_brings_the_answer_at_once(worker: Worker, control: Control, broker: Broker) -> None:
    listening(worker, control)
    subscribed(broker, worker)
    wait_for(lambda: any(report["inventory"] for report in control.reports), 10, "the inventory")
    instance = an_id()
    began = time.monotonic()
    for method in ("instance.prepare", "instance.start"):
        call = a_call(method, instance)
        control.order(call)
        broker.ring(worker.host_id, call.id)
        assert control.wait_answer(call, 5).outcome == "done"  # the sweep is 30 s away
    assert control.answers[-1].result == {"power": "running"}
    assert time.monotonic() - began < 5
    wait_for(
        lambda: any(d["instance_id"] == instance for d in control.reports[-1]["domains"] or ()),
        1.0,
        "the heartbeat that shows the new guest, long before its time",
    )


def test_a_lost_doorbell_costs_one_sweep(worker: Worker, control: Control) -> None:
    control.tuning = HeartbeatAnswer(heartbeat_seconds=0.5, sweep_seconds=1.0)
    listening(worker, control)
    wait_for(lambda: len(control.reports) > 2, 5, "the tuning's arrival")
    control.tuning = HeartbeatAnswer(heartbeat_seconds=60, sweep_seconds=1.0)
    for _ in range(3):
        call = a_call("instance.prepare", an_id())
        control.order(call)
        took = wait_for(partial(control.answered, call), 5, "a sweep")
        assert took < 2.5  # a sweep each second, and a busy machine


def test_forged_and_doubled_messages_change_nothing(worker: Worker, control: Control, broker: Broker) -> None:
    listening(worker, control)
    subscribed(broker, worker)
    call = a_call("instance.prepare", an_id())
    control.order(call)
    broker.ring(worker.host_id, call.id, times=24)
    broker.ring(worker.host_id, "no such call", {"a": ["list"]}, None)
    broker.ring(worker.host_id, "x" * 3_000_000)
    app, queue = broker.app(), queue_name(worker.host_id)
    app.send_task("os.system", args=["touch /tmp/owned"], queue=queue)
    app.conf.update(task_serializer="pickle", accept_content=["pickle"])
    app.send_task("cenote.node.ring", args=[call.id], queue=queue, serializer="pickle")
    app.close()
    raw = broker.client()
    raw.lpush(queue, b"\x00 not JSON", json.dumps({"body": 1}), json.dumps({"body": "e30=", "headers": {}}))
    assert control.wait_answer(call).outcome == "done"
    wait_for(lambda: raw.llen(queue) == 0, 10, "the queue's end")
    # It still listens, by the doorbell alone.
    after = a_call("instance.prepare", an_id())
    control.order(after)
    broker.ring(worker.host_id, after.id)
    assert control.wait_answer(after, 8).outcome == "done"
    assert len(control.answers_to(call)) == 1
    assert worker.process is not None
    assert worker.process.poll() is None


def test_a_call_sent_again_is_not_run_again(worker: Worker, control: Control, broker: Broker) -> None:
    listening(worker, control)
    subscribed(broker, worker)
    instance = an_id()
    prepare, start = a_call("instance.prepare", instance), a_call("instance.start", instance)
    control.order(prepare, start)
    broker.ring(worker.host_id)
    first = control.wait_answer(start)
    for count in range(2, 5):
        control.order(start)
        broker.ring(worker.host_id)
        wait_for(partial(control.answered, start, count), 10, "the repeated answer")
    assert set(map(repr, control.answers_to(start))) == {repr(first)}  # to the second: nothing was done anew
    late = a_call("instance.remove", instance, token=start.token - 1)
    control.order(late)
    broker.ring(worker.host_id)
    answer = control.wait_answer(late)
    assert (answer.outcome, answer.error and answer.error.code) == ("never", "stale_token")
    assert worker.host().domains[instance].power == "running"


def test_a_hung_call_is_cut_off_and_heartbeats_go_on(worker: Worker, control: Control, broker: Broker) -> None:
    worker.inject(Fault("start", "hang"))
    listening(worker, control)
    subscribed(broker, worker)
    instance, other = an_id(), an_id()
    prepare = a_call("instance.prepare", instance)
    hung, beside = a_call("instance.start", instance, deadline=0.5), a_call("instance.stop", other, graceful_seconds=0)
    control.order(prepare, hung, beside)
    broker.ring(worker.host_id)
    assert control.wait_answer(beside, 3).outcome == "done"
    reports = len(control.reports)
    answer = control.wait_answer(hung, 8)
    assert (answer.outcome, answer.error and answer.error.code) == ("unknown", "watchdog")
    assert len(control.reports) - reports >= 2
    again = a_call("instance.start", instance)
    control.order(again)
    broker.ring(worker.host_id)
    assert control.wait_answer(again, 8).result == {"power": "running"}


def test_killed_in_a_call_the_next_worker_says_unknown(worker: Worker, control: Control, broker: Broker) -> None:
    worker.inject(Fault("start", "hang"))
    listening(worker, control)
    instance = an_id()
    prepare, start = a_call("instance.prepare", instance), a_call("instance.start", instance)
    control.order(prepare, start)
    broker.ring(worker.host_id)
    control.wait_answer(prepare)
    wait_for(worker.struck, 5, "the fault's strike")
    children = children_of(worker.pid)
    assert len(children) == 1
    worker.kill()
    wait_for(lambda: not Path(f"/proc/{children[0]}").exists(), 3, "the child's death with its parent")
    control.order(start)  # its lease ended, too
    worker.start()
    answer = control.wait_answer(start, 15)
    assert (answer.outcome, answer.error and answer.error.code) == ("unknown", "worker_restarted")
    again = a_call("instance.start", instance)
    control.order(again)
    subscribed(broker, worker)
    broker.ring(worker.host_id)
    assert control.wait_answer(again, 8).result == {"power": "running"}


def test_an_outage_of_the_control_plane_loses_no_answer(worker: Worker, control: Control, broker: Broker) -> None:
    control.tuning = HeartbeatAnswer(heartbeat_seconds=0.5, sweep_seconds=0.5)
    worker.inject(Fault("prepare", "hang", seconds=1.0))
    listening(worker, control)
    call, lost = a_call("instance.prepare", an_id()), a_call("instance.prepare", an_id())
    control.order(call)
    wait_for(worker.struck, 5, "the call's beginning")
    control.down()
    time.sleep(2.5)  # it ends in the outage
    assert not control.answers_to(call)
    control.lose_answers = 1
    control.up()
    control.order(lost)
    assert control.wait_answer(call, 5).outcome == "done"
    assert control.wait_answer(lost, 5).outcome == "done"


def test_a_paused_redis_stops_neither_sweeps_nor_the_end(worker: Worker, control: Control, broker: Broker) -> None:
    control.tuning = HeartbeatAnswer(heartbeat_seconds=0.5, sweep_seconds=0.5)
    listening(worker, control)
    subscribed(broker, worker)
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    time.sleep(1)
    for _ in range(3):
        call = a_call("instance.prepare", an_id())
        control.order(call)
        assert control.wait_answer(call, 2).outcome == "done"
    began = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - began < 3


def test_it_hears_again_after_redis_lost_everything(worker: Worker, control: Control, broker: Broker) -> None:
    listening(worker, control)
    subscribed(broker, worker)
    broker.down()
    time.sleep(1.5)
    hosts, broker.hosts = broker.hosts, set()
    broker.up()  # empty, and without the host's user until the control plane's reconciler comes by
    time.sleep(2)
    for host_id in hosts:
        broker.admit(host_id)
    subscribed(broker, worker)
    call = a_call("instance.prepare", an_id())
    control.order(call)
    broker.ring(worker.host_id, call.id)
    assert control.wait_answer(call, 5).outcome == "done"


def test_asked_to_end_it_finishes_what_runs(worker: Worker, control: Control, broker: Broker) -> None:
    worker.inject(Fault("prepare", "hang", seconds=1.5))
    listening(worker, control)
    call = a_call("instance.prepare", an_id())
    control.order(call)
    broker.ring(worker.host_id)
    wait_for(worker.struck, 8, "the call's beginning")
    assert worker.terminate() == 0
    assert [answer.outcome for answer in control.answers_to(call)] == ["done"]


def test_asked_to_end_it_hands_over_what_takes_too_long(worker: Worker, control: Control, broker: Broker) -> None:
    worker.inject(Fault("prepare", "hang"))
    listening(worker, control)
    call = a_call("instance.prepare", an_id(), deadline=600)
    control.order(call)
    broker.ring(worker.host_id)
    wait_for(worker.struck, 8, "the call's beginning")
    began = time.monotonic()
    assert worker.terminate(15) == 0
    assert time.monotonic() - began < 10.5
    assert [answer.outcome for answer in control.answers_to(call)] == ["unknown"]


def test_no_second_worker_and_no_secret_in_the_log(worker: Worker, control: Control, broker: Broker) -> None:
    listening(worker, control)
    subscribed(broker, worker)
    second = Worker(worker.place, control, None)
    second.env, second.log_file = worker.env, worker.place / "second.log"
    second.start()
    assert second.process is not None
    assert second.process.wait(10) == 3
    broker.down()
    wait_for(lambda: "redis" in worker.log().lower(), 10, "a complaint about the broker")
    lines = worker.log().splitlines()
    assert all("event" in json.loads(line) for line in lines)
    assert TOKEN not in worker.log()
    assert broker_password(SECRET_KEY, worker.host_id) not in worker.log()


def test_a_dead_part_takes_the_worker_along(worker: Worker, control: Control) -> None:
    listening(worker, control)
    # A journal that cannot be written: the runner cannot keep its promise, so it must not go on.
    worker.kill()
    (worker.state_dir / "journal.sqlite").write_bytes(b"not a database" * 1000)
    for leftover in worker.state_dir.glob("journal.sqlite-*"):
        leftover.unlink()
    worker.start()
    assert worker.process is not None
    assert worker.process.wait(15) != 0


def test_settings_that_make_no_sense_end_it_with_a_sentence(worker: Worker, control: Control) -> None:
    worker.env["CENOTE_NODE_VCPUS"] = "many"
    worker.start()
    assert worker.process is not None
    assert worker.process.wait(15) == 2
    assert "CENOTE_NODE_VCPUS is 'many'" in worker.log()
