"""What the image builders promise besides a good image: run again for nothing, killed at any time, whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.images.conftest import BUILDERS, build, build_environment

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

ARCHIVE = "tiny-container.tar"
MANIFEST = "tiny-container.json"


def test_second_run_changes_nothing(container_image: Path) -> None:
    before = (container_image / ARCHIVE).stat()
    assert "nothing to do" in build("build-tiny-container", container_image)
    after = (container_image / ARCHIVE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_damaged_image_is_built_again_to_the_same_bits(container_image: Path) -> None:
    good = (container_image / ARCHIVE).read_bytes()
    (container_image / ARCHIVE).write_bytes(good[:-512])
    build("build-tiny-container", container_image)
    assert hashlib.sha256((container_image / ARCHIVE).read_bytes()).digest() == hashlib.sha256(good).digest()


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.8])
def test_killed_builder_leaves_nothing_that_looks_whole(tmp_path: Path, seconds: float) -> None:
    process = subprocess.Popen(
        [BUILDERS / "build-tiny-container", tmp_path],
        env=build_environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"
    assert not (tmp_path / MANIFEST).exists()
    build("build-tiny-container", tmp_path)
    entry = json.loads((tmp_path / MANIFEST).read_text())["files"]["disk"]
    assert hashlib.sha256((tmp_path / ARCHIVE).read_bytes()).hexdigest() == entry["sha256"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {ARCHIVE, MANIFEST, ".tiny-container.lock"}


def test_missing_tool_is_named(tmp_path: Path) -> None:
    only = tmp_path / "bin"
    only.mkdir()
    for name in ("bash", "dirname", "env"):
        (only / name).symlink_to(Path("/usr/bin") / name)
    done = subprocess.run(
        [BUILDERS / "build-tiny-vm", tmp_path / "out"],
        env={"PATH": str(only)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "apt-get is missing" in done.stderr
    assert "packages.txt" in done.stderr
