"""Programs, threads and raw sockets inside network namespaces."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def sh(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0 or not check, f"{arguments}: {done.stderr}{done.stdout}"
    return done.stdout


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert _LIBC.setns(handle, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(handle)


def inside(namespace: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread within the namespace. A socket made there stays there."""
    result: list[T] = []

    def work() -> None:
        enter(namespace)
        result.append(action())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return result[0]


def raw_socket(namespace: str, device: str) -> socket.socket:
    """Return a socket on a namespace's device: all frames in, any frame out."""

    def make() -> socket.socket:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        link.bind((device, 3))
        return link

    return inside(namespace, make)


@contextmanager
def listening(namespace: str, program: str) -> Iterator[None]:
    """Run a Python program in a namespace, from when it has said that it is up."""
    command = ("nsenter", f"--net=/run/netns/{namespace}", "python3", "-c", program)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield
        finally:
            process.kill()
