"""Builds the tiny images once for all tests of this directory."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.lxchost import LxcHost
from tests.images.seeds import make_keypair

REPOSITORY = Path(__file__).resolve().parents[2]
BUILDERS = REPOSITORY / "deploy" / "images"


def build_environment() -> dict[str, str]:
    """Return an environment in which downloads are shared with those of the installed cloud, where there is one."""
    state = Path(os.environ.get("CENOTE_STATE_DIR") or REPOSITORY / "var")
    return {**os.environ, "CACHE": str(state / "images" / ".cache")}


def build(name: str, directory: Path) -> str:
    """Run one image builder; return what it said."""
    command = [BUILDERS / name, directory]
    done = subprocess.run(command, env=build_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="session")
def vm_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vm-image")
    build("build-tiny-vm", directory)
    return directory


@pytest.fixture(scope="session")
def container_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("container-image")
    build("build-tiny-container", directory)
    return directory


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a private SSH key, its public half beside it with the suffix `.pub`."""
    return make_keypair(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def lxc_host() -> Iterator[LxcHost]:
    with tempfile.TemporaryDirectory(prefix="cenote-lxc-") as name:
        directory = Path(name)
        # Root inside the user namespace is nobody in particular outside, and has to reach its own root directory;
        # pytest's directories let only their owner pass.
        directory.chmod(0o711)
        with LxcHost(directory) as host:
            yield host
