"""Tests against a whole running cloud: real libvirt hosts, real workers, the public API. `deploy/test` brings it up."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.steps.demo import ssh_words
from deploy.steps.files import read_env
from deploy.steps.place import REPO, Place
from deploy.steps.supervisor import Supervisor

FINAL = ("succeeded", "failed", "cancelled")


@dataclass
class RunningCloud:
    """A running cloud, seen as a tenant's script and as an operator see it."""

    place: Place
    env: dict[str, str]
    tenant: httpx.Client
    operator: httpx.Client

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.place)

    def create(self, name: str, image: str = "tiny-container", flavor: str = "nano", **more: Any) -> dict[str, Any]:
        return self.read(self.ask_for(name, image, flavor, **more))

    def ask_for(self, name: str, image: str, flavor: str = "nano", **more: Any) -> httpx.Response:
        body = {"name": name, "image": image, "flavor": flavor, "keypairs": ["demo"], **more}
        return self.tenant.post("/instances", json=body, headers={"Idempotency-Key": uuid.uuid4().hex})

    def read(self, answer: httpx.Response, *, status: int | None = None) -> dict[str, Any]:
        assert answer.status_code < 400 if status is None else answer.status_code == status, answer.text
        data: dict[str, Any] = answer.json() if answer.content else {}
        return data

    def wait(self, operation_id: str, seconds: float = 120) -> dict[str, Any]:
        """Return the operation once it has ended."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                operation = self.read(self.tenant.get(f"/operations/{operation_id}", params={"wait": 20}))
            except httpx.HTTPError:
                time.sleep(0.5)
                continue
            if operation["state"] in FINAL:
                return operation
            assert time.monotonic() < deadline, f"does not end: {operation}"

    def run(self, name: str, *, seconds: float = 120, **more: Any) -> dict[str, Any]:
        """Create and return an instance that runs."""
        made = self.create(name, **more)
        ended = self.wait(made["operation"]["id"], seconds)
        assert ended["state"] == "succeeded", ended
        return self.read(self.tenant.get(f"/instances/{made['instance']['id']}"))

    def delete(self, instance_id: str, seconds: float = 120) -> None:
        answer = self.tenant.delete(f"/instances/{instance_id}")
        if answer.status_code == 202:
            self.wait(answer.json()["operation"]["id"], seconds)

    def act(self, instance_id: str, verb: str, **body: Any) -> dict[str, Any]:
        order = self.read(self.tenant.post(f"/instances/{instance_id}/actions/{verb}", json=body))
        return self.wait(order["operation"]["id"])

    def ssh(self, instance: dict[str, Any], command: str, seconds: float = 90) -> str:
        """Return what a command in the guest prints, as soon as the guest answers."""
        deadline = time.monotonic() + seconds
        while True:
            done = subprocess.run(
                [*ssh_words(self.place, instance), command], capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode != 255 and done.returncode == 0:
                return done.stdout.strip()
            assert time.monotonic() < deadline, f"{instance['name']}: {done.stderr or done.stdout}"
            time.sleep(0.5)

    def lab(self, *words: str) -> str:
        done = subprocess.run(
            [REPO / "deploy" / "lab", *words],
            env=self.shell_env,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self, *words: str) -> None:
        """Run `deploy/up` on the running cloud, as for another setting of it."""
        command = [REPO / "deploy" / "up", "--no-guests", *words]
        done = subprocess.run(command, env=self.shell_env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr

    @property
    def shell_env(self) -> dict[str, str]:
        place = {"CENOTE_STATE_DIR": str(self.place.state), "CENOTE_VENV": str(self.place.venv)}
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("CENOTE_", "DJANGO_"))}
        return {**plain, **place}

    def audit(self) -> list[str]:
        """Return what `manage.py audit` complains of."""
        env = {**self.shell_env, **read_env(self.place.state / "cloud.env"), "DJANGO_SETTINGS_MODULE": "cloud.settings"}
        done = subprocess.run(
            [self.place.venv / "bin" / "python", REPO / "manage.py", "audit"],
            env={**env, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        lines = done.stdout.strip().splitlines()
        assert lines, done.stderr
        assert (done.returncode == 0) == lines[-1].startswith("0 violations")
        return lines[:-1]


@pytest.fixture(scope="session")
def running() -> Iterator[RunningCloud]:
    state = os.environ.get("CENOTE_TEST_CLOUD")
    assert state, "these tests need a running cloud: run them by deploy/test, or set CENOTE_TEST_CLOUD to its state"
    venv = os.environ.get("CENOTE_VENV") or f"{state}/venv"
    place = Place(state=Path(state), venv=Path(venv), port=int((Path(state) / "port").read_text()))
    env = {k.removeprefix("export "): v for k, v in read_env(place.state / "demo.env").items()}
    base = f"{env['CENOTE_URL']}/api/v1"
    with (
        httpx.Client(base_url=base, headers={"Authorization": f"Bearer {env['CENOTE_TOKEN']}"}, timeout=60) as tenant,
        httpx.Client(
            base_url=base, headers={"Authorization": f"Bearer {env['CENOTE_OPERATOR_TOKEN']}"}, timeout=60
        ) as operator,
    ):
        yield RunningCloud(place, env, tenant, operator)


@pytest.fixture
def made(running: RunningCloud) -> Iterator[Callable[..., dict[str, Any]]]:
    """Make instances that are deleted after the test."""
    ids: list[str] = []

    def make(name: str, **more: Any) -> dict[str, Any]:
        instance = running.run(name, **more)
        ids.append(instance["id"])
        return instance

    yield make
    for instance_id in ids:
        running.delete(instance_id)
