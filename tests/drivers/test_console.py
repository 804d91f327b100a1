"""Console logs: bounded, complete to their newest byte, and read for as long as the guest speaks."""

from __future__ import annotations

import os
import pty
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compute.node.drivers.libvirt.console import KEEP_BYTES, TRIM_BYTES, ConsoleRecorder, read_log, trim


@pytest.fixture
def recorder() -> Iterator[ConsoleRecorder]:
    opened = ConsoleRecorder()
    yield opened
    opened.close()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_newest_bytes_come_from_both_parts(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    assert read_log(log, 100) == b""
    (tmp_path / "console.log.0").write_bytes(b"older")
    log.write_bytes(b"newer")
    assert read_log(log, 100) == b"oldernewer"
    assert read_log(log, 7) == b"ernewer"
    assert read_log(log, 2) == b"er"
    assert read_log(log, 0) == b""


def test_trim_keeps_the_newest_part_and_the_writers_file(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * TRIM_BYTES)
        trim(log)
        assert log.stat().st_size == TRIM_BYTES
        writer.write(b"the newest words")
        trim(log)
        assert log.stat().st_size == 0
        assert read_log(log, KEEP_BYTES).endswith(b"the newest words")
        writer.write(b" and more")
    assert read_log(log, KEEP_BYTES).endswith(b"the newest words and more")
    assert log.stat().st_size == 9


def test_trim_of_a_log_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    trim(tmp_path / "console.log")


def test_recorder_copies_what_was_said_before_and_after(tmp_path: Path, recorder: ConsoleRecorder) -> None:
    guest, host = pty.openpty()
    log = tmp_path / "console.log"
    os.write(guest, b"before\n")
    for _ in range(2):
        recorder.attach("a", os.ttyname(host), log)
    os.write(guest, b"after\n")
    wait_until(lambda: b"after" in read_log(log, 100))
    assert read_log(log, 100) == b"before\nafter\n"
    os.close(guest)
    os.close(host)
    wait_until(lambda: not recorder.is_attached("a"))


def test_recorder_follows_a_guest_to_its_next_terminal(tmp_path: Path, recorder: ConsoleRecorder) -> None:
    first_guest, first_host = pty.openpty()
    second_guest, second_host = pty.openpty()
    log = tmp_path / "console.log"
    recorder.attach("a", os.ttyname(first_host), log)
    recorder.attach("a", os.ttyname(second_host), log)
    os.write(second_guest, b"second boot\n")
    wait_until(lambda: b"second boot" in read_log(log, 100))
    for descriptor in (first_guest, first_host, second_guest, second_host):
        os.close(descriptor)


def test_terminal_that_is_gone_is_no_error(tmp_path: Path, recorder: ConsoleRecorder) -> None:
    recorder.attach("a", "/dev/pts/99999", tmp_path / "console.log")
    assert not recorder.is_attached("a")
    recorder.detach("a")
