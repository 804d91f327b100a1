"""What the image builders promise besides a good image: run again for nothing, killed at any time, whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
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


@pytest.fixture(scope="module")
def build_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long a whole build takes on this machine, now."""
    began = time.monotonic()
    build("build-tiny-container", tmp_path_factory.mktemp("whole"))
    return time.monotonic() - began


def _kill_builder(folder: Path, seconds: float) -> bool:
    """Start a build and kill it after so long; return False where it had ended before."""
    process = subprocess.Popen(
        [BUILDERS / "build-tiny-container", folder],
        env=build_environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_killed_builder_leaves_nothing_that_looks_whole(tmp_path: Path, build_seconds: float, share: float) -> None:
    for again in range(6):
        folder = tmp_path / str(again)
        # A build that is quicker than the measured one is over by then: a little earlier, in a new place.
        if _kill_builder(folder, build_seconds * share * 0.8**again):
            break
    else:
        pytest.fail("every build had ended before it was killed")
    assert not (folder / MANIFEST).exists()
    build("build-tiny-container", folder)
    entry = json.loads((folder / MANIFEST).read_text())["files"]["disk"]
    assert hashlib.sha256((folder / ARCHIVE).read_bytes()).hexdigest() == entry["sha256"]
    assert {path.name for path in folder.iterdir()} == {ARCHIVE, MANIFEST, ".tiny-container.lock"}


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
