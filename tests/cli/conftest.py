"""The `cenote` command against the API, which this process serves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cloud.cli.app import app
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
        """Run it inside this process: the same program without its start."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**self.env, **env}, clear=True),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            app(list(arguments), prog_name="cenote")
        assert ended.value.code == code, (ended.value.code, out.getvalue(), err.getvalue())
        return Ran(code, out.getvalue(), err.getvalue())

    def process(self, *arguments: str, code: int = 0, stdin: str = "", **env: str) -> Ran:
        """Run it as people do."""
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
