from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compute.node.journal import KEEP_SECONDS, Journal, JournalTaken, StaleToken
from compute.wire import Call, CallAnswer
from tests.node.conftest import REPO
from tests.node.orders import a_call, an_id


def done(call: Call) -> CallAnswer:
    return CallAnswer(call.id, call.token, "done", result={"power": "running"}, seconds=1.5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node" / "journal.sqlite"


def test_only_an_older_order_is_stale(file: Path) -> None:
    journal, target = Journal(file), an_id()
    journal.begin(a_call("instance.start", target, token=5))
    journal.begin(a_call("instance.console_log", target, token=5))  # a read carries the newest token
    journal.begin(a_call("instance.stop", target, token=7))
    journal.begin(a_call("instance.stop", an_id(), token=1))  # another target has its own
    with pytest.raises(StaleToken):
        journal.begin(a_call("instance.start", target, token=6))


def test_tokens_and_answers_outlive_the_process(file: Path) -> None:
    target = an_id()
    call = a_call("instance.start", target, token=9)
    first = Journal(file)
    assert first.begin(call) is None
    first.finish(done(call))
    first.close()
    second = Journal(file)
    assert second.begin(call) == done(call)
    assert second.undelivered() == [done(call)]
    with pytest.raises(StaleToken):
        second.begin(a_call("instance.stop", target, token=8))


def test_a_finished_call_keeps_its_answer_when_newer_orders_came(file: Path) -> None:
    journal, target = Journal(file), an_id()
    call = a_call("instance.start", target, token=1)
    journal.begin(call)
    journal.finish(done(call))
    journal.begin(a_call("instance.stop", target, token=2))
    assert journal.begin(call) == done(call)
    with pytest.raises(StaleToken):  # and asking for it did not lower the token
        journal.begin(a_call("instance.start", target, token=1))


def test_what_a_dead_worker_left_is_unknown(file: Path) -> None:
    left, ended = a_call("instance.start", an_id()), a_call("instance.start", an_id())
    journal = Journal(file)
    journal.begin(left)
    journal.begin(ended)
    journal.finish(done(ended))
    journal.close()
    journal = Journal(file)
    assert journal.abandon() == 1
    assert journal.abandon() == 0
    outcomes = {answer.call_id: answer.outcome for answer in journal.undelivered()}
    assert outcomes == {left.id: "unknown", ended.id: "done"}


def test_a_late_answer_to_an_abandoned_call_of_another_token_changes_nothing(file: Path) -> None:
    journal, call = Journal(file), a_call("instance.start", an_id(), token=1)
    journal.begin(call)
    again = Call(call.id, call.method, call.target_id, 2, call.arguments, call.deadline_seconds)
    journal.begin(again)
    journal.finish(done(call))
    assert journal.undelivered() == []
    journal.finish(done(again))
    assert journal.undelivered() == [done(again)]


def test_delivered_once_is_delivered(file: Path) -> None:
    journal, call = Journal(file), a_call("instance.start", an_id())
    journal.begin(call)
    journal.finish(done(call))
    journal.delivered(call.id)
    assert journal.undelivered() == []
    assert journal.begin(call) == done(call)


def test_an_answer_that_cannot_be_read_is_dropped_and_hinders_nobody(file: Path) -> None:
    journal, broken, whole = Journal(file), a_call("instance.start", an_id()), a_call("instance.start", an_id())
    for call in (broken, whole):
        journal.begin(call)
        journal.finish(done(call))
    with sqlite3.connect(file) as other:
        other.execute('UPDATE call SET answer = \'{"outcome": "perhaps"}\' WHERE id = ?', (broken.id,))
    assert journal.undelivered() == [done(whole)]
    assert journal.begin(broken) is None  # it is run again, not lost


def test_pruning_forgets_old_calls_and_never_a_token(file: Path) -> None:
    journal, old, new = Journal(file), a_call("instance.start", an_id(), token=4), a_call("instance.start", an_id())
    for call in (old, new):
        journal.begin(call)
        journal.finish(done(call))
    with sqlite3.connect(file) as other:
        other.execute("UPDATE call SET at = ? WHERE id = ?", (time.time() - KEEP_SECONDS - 1, old.id))
    journal.prune()
    assert journal.undelivered() == [done(new)]
    with pytest.raises(StaleToken):
        journal.begin(a_call("instance.start", old.target_id, token=3))


def test_one_worker_at_a_time(file: Path) -> None:
    journal = Journal(file)
    with pytest.raises(JournalTaken):
        Journal(file)
    journal.close()
    Journal(file).close()


def test_many_threads_one_winner_for_each_token(file: Path) -> None:
    journal, target = Journal(file), an_id()
    accepted: list[int] = []

    def order(token: int) -> None:
        try:
            journal.begin(a_call("instance.start", target, token=token))
        except StaleToken:
            return
        accepted.append(token)

    threads = [threading.Thread(target=order, args=(token,)) for token in range(1, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 24 in accepted
    with pytest.raises(StaleToken):
        journal.begin(a_call("instance.start", target, token=23))


_WRITER = """
import sys
from pathlib import Path
from compute.node.journal import Journal
from compute.wire import Call, CallAnswer
journal = Journal(Path(sys.argv[1]))
for token in range(1, 100000):
    journal.begin(Call(f"call-{token}", "instance.start", "target", token, {}, 1.0))
    journal.finish(CallAnswer(f"call-{token}", token, "done"))
    print(token, flush=True)
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_said(file: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(file)], cwd=REPO, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _line in range(20):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        said = [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        newest = said[-1] if said else 20
        journal = Journal(file)
        with pytest.raises(StaleToken):
            journal.begin(a_call("instance.stop", "target", token=newest - 1))
        known = journal.begin(Call(f"call-{newest}", "instance.start", "target", newest, {}, 1.0))
        assert known is not None
        assert known.outcome == "done"
        journal.close()
        file.unlink()
        for leftover in file.parent.glob("journal.sqlite-*"):
            leftover.unlink()
