"""Several requests at once, with real commits."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.db import connection

from cloud.api.models import IdempotencyKey
from compute.models import Instance, Operation
from tests.api.conftest import build_world
from tests.api.test_idempotency import _create

pytestmark = pytest.mark.django_db(transaction=True)


def test_while_the_first_is_running_the_second_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = build_world()
    inside, go_on = threading.Event(), threading.Event()
    original = IdempotencyKey.refresh_from_db

    def held_up(self: IdempotencyKey, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        inside.set()
        assert go_on.wait(20)

    def first() -> None:
        answers.append(_create(world.owner, world, "k"))
        connection.close()

    answers: list[Any] = []
    monkeypatch.setattr(IdempotencyKey, "refresh_from_db", held_up)
    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(20)
    response = _create(world.owner, world, "k")
    go_on.set()
    thread.join(timeout=30)
    assert [answer.status_code for answer in answers] == [202]
    assert Instance.unscoped.count() == 1
    assert response.status_code == 409
    assert response.json()["code"] == "idempotency_key_in_flight"
    assert response["Retry-After"] == "1"


def test_of_many_at_once_one_does_the_work() -> None:
    world = build_world()
    start = threading.Barrier(8)
    answers: list[Any] = []

    def one() -> None:
        start.wait()
        answers.append(_create(world.owner, world, "k"))
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    codes = sorted(answer.status_code for answer in answers)
    assert len(codes) == 8
    assert set(codes) <= {202, 409}
    assert codes[0] == 202
    assert Instance.unscoped.count() == 1
    assert len({answer.json()["operation"]["id"] for answer in answers if answer.status_code == 202}) == 1


def test_wait_answers_as_soon_as_the_operation_has_ended() -> None:
    world = build_world()
    operation = world.owner.ok("POST", "instances", world.order(), status=202)["operation"]
    began = time.monotonic()

    def end() -> None:
        Operation.objects.update(state="succeeded")
        connection.close()

    timer = threading.Timer(0.7, end)
    timer.start()
    shown = world.owner.ok("GET", f"operations/{operation['id']}?wait=20")
    took = time.monotonic() - began
    timer.join()
    assert shown["state"] == "succeeded"
    assert shown["progress"] == 100
    assert 0.5 < took < 5
