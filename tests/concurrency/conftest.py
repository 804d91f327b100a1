"""The web process as deployed, on the test's database, and a crowd that calls it at the same moment."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection

WebStarter = Callable[[str], str]


def database_url() -> str:
    """The test's own database, for processes beside the test."""
    database = connection.settings_dict
    return f"postgres://{database['USER']}:{database['PASSWORD']}@/{database['HOST']}/{database['NAME']}"


def die_with_the_tests() -> None:
    """Have the kernel end a child when the test process is killed (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


@contextmanager
def web_process(application: str, log_file: Path) -> Iterator[str]:
    """gunicorn as deployed (two workers of 24 threads), serving `application`; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", application, "--worker-class", "gthread", "--workers", "2"]
    command += ["--threads", "24", "--bind", f"127.0.0.1:{port}", "--log-level", "error"]
    env = {**os.environ, "CENOTE_DATABASE_URL": database_url()}
    with log_file.open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, preexec_fn=die_with_the_tests)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert httpx.get(f"{address}/health/ready").status_code == 200
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, log_file.read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def web(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """The address of the product."""
    with web_process("cloud.wsgi", tmp_path / "web.log") as address:
        yield address


@pytest.fixture
def careless_web(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """The address of the product with its locks taken out: what a control calls (careless_wsgi.py)."""
    with web_process("tests.concurrency.careless_wsgi", tmp_path / "careless.log") as address:
        yield address


def all_at_once(clients: list[httpx.Client], count: int, body: dict[str, Any]) -> list[httpx.Response]:
    """`count` creates, the clients in turn, all sent at the same moment; answers in order."""
    answers: list[Any] = [None] * count
    start = threading.Barrier(count)

    def one(number: int) -> None:
        start.wait()
        answers[number] = clients[number % len(clients)].post("/instances", json={**body, "name": f"rush-{number}"})

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
