"""A process inside a host's namespace that runs the product's PortManager, as the node worker does."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import subprocess
from typing import Any

from compute.node.drivers.base import DriverError
from compute.node.network.ports import PortManager
from compute.node.network.settings import NetworkSettings
from tests.network.namespaces import enter

_FORK = multiprocessing.get_context("fork")


class Worker:
    def __init__(self, namespace: str, settings: NetworkSettings) -> None:
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(theirs, namespace, settings), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, method: str, *arguments: Any) -> None:
        self._pipe.send((method, arguments))

    def answer(self) -> Any:
        """Return what the call sent first returned. Raises its DriverError, EOFError when the process was killed."""
        kind, value = self._pipe.recv()
        if kind == "error":
            raise value[0](value[1], value[2])
        return value

    def kill_in_place_of_program(self, number: int) -> None:
        """Let this process be killed when the product is about to run its n-th program (from 0) from now on."""
        self.send("kill_in_place_of_program", number)
        self.answer()

    def end(self) -> None:
        # A message, not a closed pipe: processes forked later hold copies of this end.
        with contextlib.suppress(OSError):  # it may have been killed
            self.send("end")
        self._process.join(5)
        self._pipe.close()


def _serve(pipe: Any, namespace: str, settings: NetworkSettings) -> None:
    enter(namespace)
    manager = PortManager(settings)
    while True:
        method, arguments = pipe.recv()
        if method == "end":
            return
        try:
            call = _kill_later if method == "kill_in_place_of_program" else getattr(manager, method)
            pipe.send(("value", call(*arguments)))
        except DriverError as error:
            pipe.send(("error", (type(error), error.code, str(error))))


def _kill_later(number: int) -> None:
    left = itertools.count(number, -1)
    real = subprocess.run

    def run(*arguments: Any, **options: Any) -> Any:
        if next(left) == 0:
            os.kill(os.getpid(), 9)
        return real(*arguments, **options)

    subprocess.run = run
