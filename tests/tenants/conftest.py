"""Fixtures of the tenancy tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

Runner = Callable[..., list[Any]]


@pytest.fixture
def at_once() -> Runner:
    """`at_once(call, call, ...)` starts the calls at the same moment, each in a thread with its own database
    connection, and returns what each returned or raised, in order. Needs django_db(transaction=True): commits are real.
    """

    def run(*calls: Callable[[], Any]) -> list[Any]:
        start = threading.Barrier(len(calls))
        results: list[Any] = [None] * len(calls)

        def one(index: int, call: Callable[[], Any]) -> None:
            try:
                start.wait(timeout=20)
                results[index] = call()
            except Exception as error:
                results[index] = error
            finally:
                connection.close()

        threads = [threading.Thread(target=one, args=item) for item in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a call hangs"
        return results

    return run
