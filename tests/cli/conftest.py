"""The `cenote` command as a process of its own, against the API served by this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import World, build_world

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cli:
    """Calls `cenote`; raises AssertionError where the exit code is not the one expected."""

    env: dict[str, str]
    home: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "", **env: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "cloud.cli", *arguments],
            env={**self.env, **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=REPOSITORY,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "cloud.cli", *arguments],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self.started.append(process)
        return process


@pytest.fixture
def world(transactional_db: None, settings: Any) -> World:
    settings.ROOT_URLCONF = "tests.api.urls"
    return build_world()


CliMaker = Callable[..., Cli]


@pytest.fixture
def cli(world: World, live_server: Any, tmp_path: Path) -> Any:
    """As the owner of `world.tenant`, with the operator's token at hand."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CENOTE_URL": live_server.url,
        "CENOTE_TOKEN": world.owner.token,
        "CENOTE_OPERATOR_TOKEN": world.operator.token,
    }
    made = Cli(env, tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
