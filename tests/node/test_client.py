from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import httpx
import pytest

from compute.node.client import ApiRefused, ApiUnavailable, NodeApi
from compute.node.drivers.settings import DriverSettings
from compute.node.settings import NodeSettings, SettingsError
from compute.wire import CallAnswer, HostReport
from tests.node.control import TOKEN, Control
from tests.node.orders import a_call, an_id


def settings(control: Control, token: str = TOKEN, api: str = "") -> NodeSettings:
    where = api or f"http+unix://{control.socket}"
    return NodeSettings("host", token, where, "", Path("/nonexistent"), "fake", DriverSettings(1, 1, 1))


@pytest.fixture
def api(control: Control) -> NodeApi:
    return NodeApi(settings(control))


def test_calls_come_as_they_were_written(api: NodeApi, control: Control) -> None:
    calls = [a_call("instance.prepare", an_id()), a_call("instance.stop", an_id(), graceful_seconds=1)]
    control.order(*calls)
    assert list(api.fetch(limit=5, in_hand=[]).calls) == calls


def test_one_unreadable_call_hinders_no_other(api: NodeApi, control: Control) -> None:
    good = a_call("instance.remove", an_id())
    newer = {**a_call("instance.remove", an_id(), token=9).to_json(), "deadline_seconds": {"soft": 1}}
    with control.lock:
        control.waiting += [("", newer), ("", {"what": "is this"}), ("", good.to_json())]
    fetched = api.fetch(limit=5, in_hand=[])
    assert list(fetched.calls) == [good]
    assert [(a.call_id, a.token, a.outcome) for a in fetched.unreadable] == [(newer["id"], 9, "retry")]


def test_a_cut_connection_is_tried_again(api: NodeApi, control: Control) -> None:
    control.lose_answers = 1
    answer = CallAnswer(an_id(), 1, "done")
    api.answer(answer)
    assert control.answers == [answer, answer]  # nodeapi takes the same answer twice as once


def test_gone_is_unavailable_and_soon_said(api: NodeApi, control: Control) -> None:
    control.down()
    began = time.monotonic()
    for ask in (lambda: api.fetch(limit=1, in_hand=[]), api.network, lambda: api.answer(CallAnswer("x", 1, "done"))):
        with pytest.raises(ApiUnavailable):
            ask()
    assert time.monotonic() - began < 3
    control.up()
    assert api.fetch(limit=1, in_hand=[]).calls == ()


@pytest.mark.parametrize(("status", "error"), [(409, ApiRefused), (429, ApiUnavailable), (503, ApiUnavailable)])
def test_no_is_not_the_same_as_not_now(api: NodeApi, control: Control, status: int, error: type[Exception]) -> None:
    control.refuse_answers = status
    with pytest.raises(error):
        api.answer(CallAnswer(an_id(), 1, "done"))


def test_a_wrong_token_is_refused(control: Control) -> None:
    with pytest.raises(ApiRefused) as caught:
        NodeApi(settings(control, token="stolen")).heartbeat(HostReport("boot", "now", None))
    assert (caught.value.status, caught.value.code) == (401, "token_invalid")


def test_an_answer_that_is_not_nodeapis(api: NodeApi, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    for nonsense in (b"<html>", b"[1]", b'{"calls": 5}', b'{"cancel": 3}'):
        reply = httpx.Response(200, content=nonsense, request=httpx.Request("GET", "http://x"))
        monkeypatch.setattr(api._http, "request", lambda *a, reply=reply, **k: reply)
        with contextlib.suppress(ApiUnavailable):
            assert api.fetch(limit=1, in_hand=[]).calls == ()
    with pytest.raises(ApiUnavailable):
        api.heartbeat(HostReport("boot", "now", None))


def test_only_addresses_that_keep_the_token_secret(control: Control, tmp_path: Path) -> None:
    for wrong in ("http://10.0.0.1", "ftp://x", "web.sock"):
        with pytest.raises(SettingsError):
            NodeApi(settings(control, api=wrong))


def test_many_threads_share_it(api: NodeApi, control: Control) -> None:
    calls = [a_call("instance.remove", an_id()) for _ in range(60)]
    control.order(*calls)
    got: list[str] = []

    def take() -> None:
        for _ in range(10):
            got.extend(call.id for call in api.fetch(limit=1, in_hand=[]).calls)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(call.id for call in calls)
