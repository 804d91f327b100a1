"""The end of `deploy/up`: images, pool, demo tenant, hosts in service, and a first VM and container by the public API."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from deploy.labhosts import lab
from deploy.labhosts.namespaces import LabHost
from deploy.steps.control import manage
from deploy.steps.files import env_text, read_env, write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import SetupError, run

BUILDERS = {"tiny": "build-tiny-vm", "tiny-container": "build-tiny-container"}
FIRST = (("first-vm", "tiny", "micro"), ("first-container", "tiny-container", "nano"))
HOST_SECONDS = 300
GUEST_SECONDS = 300
GUESTS_BACK_SECONDS = 120


def build_images(place: Place) -> None:
    """Build the guest images whose recipe has changed; the builders themselves look whether there is anything to do."""
    for builder in BUILDERS.values():
        run(REPO / "deploy" / "images" / builder, place.images, timeout=900)


def import_images(place: Place) -> None:
    """Offer the built images, and lay out what hosts boot to prove themselves."""
    marker = place.shared / ".cenote-storage"
    if not marker.exists():
        write(marker, f"{uuid.uuid4()}\n")
    proof = place.shared / "proof"
    proof.mkdir(exist_ok=True, mode=0o711)
    for source, target in (("tiny.kernel", "kernel"), ("tiny.initrd", "initrd"), ("tiny-container.tar", "root.tar")):
        _copy(place.images / source, proof / target)
    for name in BUILDERS:
        manifest = json.loads((place.images / f"{name}.json").read_text())
        stamp = place.images / f".{name}.imported"
        if stamp.exists() and stamp.read_text() == manifest["recipe"]:
            continue
        words = [
            *("image_import", "--name", name, "--kind", manifest["kind"], "--boot", manifest["boot"]),
            *("--format", manifest["format"], "--file", str(place.images / manifest["files"]["disk"]["path"])),
            *("--virtual-size-gib", str(manifest["min_disk_gib"]), "--user", manifest["default_user"]),
            *("--description", manifest["os"], "--storage", str(place.shared)),
        ]
        if manifest["boot"] == "kernel":
            words += ["--kernel", str(place.images / manifest["files"]["kernel"]["path"])]
            words += ["--initrd", str(place.images / manifest["files"]["initrd"]["path"])]
            words += [f"--kernel-args={manifest['kernel_args']}"]
        manage(place, *words)
        write(stamp, manifest["recipe"])


def _copy(source: Path, target: Path) -> None:
    if (
        target.exists()
        and target.stat().st_size == source.stat().st_size
        and target.stat().st_mtime >= source.stat().st_mtime
    ):
        return
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    partial.chmod(0o644)
    partial.rename(target)


def seed(place: Place) -> dict[str, str]:
    """Make pool, flavors, tenant, users and tokens; return the demo's secrets."""
    said = manage(place, "demo_seed", "--secrets", str(place.state / "demo.json"))
    found: dict[str, str] = json.loads(said.strip().splitlines()[-1])
    return found


class Api:
    """The public API with one token, as any script would use it."""

    def __init__(self, place: Place, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"{place.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=90
        )

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        return self._read(self._http.get(path, params=query))

    def post(self, path: str, body: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        headers = {"Idempotency-Key": key} if key else {}
        return self._read(self._http.post(path, json=body, headers=headers))

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        data: dict[str, Any] = answer.json() if answer.content else {}
        if answer.status_code >= 400:
            raise SetupError(
                f"{answer.request.method} {answer.request.url.path}: {data.get('detail', answer.status_code)}"
            )
        return data


def wait_for_hosts(place: Place, operator: Api, names: list[str]) -> None:
    """Wait until every host has proved itself and is in service."""
    deadline = time.monotonic() + HOST_SECONDS
    while True:
        rows = {row["name"]: row for row in operator.get("/hosts", limit=200)["items"]}
        missing = [
            name
            for name in names
            if name not in rows or (rows[name]["admin_state"], rows[name]["observed_state"]) != ("enabled", "up")
        ]
        if not missing:
            return
        refused = [rows[name] for name in missing if name in rows and rows[name]["admin_state"] == "disabled"]
        if refused:
            reasons = "; ".join(f"{row['name']}: {row['state_reason'] or 'disabled by an operator'}" for row in refused)
            if any(row["state_reason"] for row in refused):
                raise SetupError(f"hosts that did not pass their proof: {reasons}")
            return
        if time.monotonic() > deadline:
            states = ", ".join(
                f"{n}: {rows[n]['admin_state']}/{rows[n]['observed_state']}" for n in missing if n in rows
            )
            raise SetupError(f"hosts are not in service after {HOST_SECONDS} s: {states or missing}")
        print(".", end="", file=sys.stderr, flush=True)
        time.sleep(1)


def wait_for_guests(operator: Api, *, since: datetime) -> None:
    """Wait until the guests that should run were seen running after `since`: their hosts have just been switched on.

    A guest that does not come back is the reconcilers' matter and the console's, not a reason to stop set-up.
    """
    deadline = time.monotonic() + GUESTS_BACK_SECONDS
    while True:
        rows = operator.get("/instances", limit=200)["items"]
        away = [
            row["name"]
            for row in rows
            if (row["state"], row["desired_power"]) == ("active", "running")
            and not (row["power"] == "running" and datetime.fromisoformat(row["power_observed_at"]) > since)
        ]
        if not away:
            return
        if time.monotonic() > deadline:
            print(f" still starting: {', '.join(away[:5])}", end="", file=sys.stderr, flush=True)
            return
        print(".", end="", file=sys.stderr, flush=True)
        time.sleep(1)


def make_key(place: Place, tenant: Api) -> Path:
    """Make an SSH key for the demo and register it."""
    key = place.state / "demo_key"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", key)
    names = {row["name"] for row in tenant.get("/keypairs", limit=200)["items"]}
    if "demo" not in names:
        tenant.post("/keypairs", {"name": "demo", "public_key": key.with_suffix(".pub").read_text()})
    return key


def write_demo_env(place: Place, secrets: dict[str, str], key: Path) -> None:
    """Write what a script or the CLI sources."""
    proxy = f"{REPO}/deploy/lab proxy %h %p"
    if place.state != REPO / "var":
        proxy = f"env CENOTE_STATE_DIR={place.state} CENOTE_VENV={place.venv} {proxy}"
    values = {
        "CENOTE_URL": place.url,
        "CENOTE_TOKEN": secrets["token"],
        "CENOTE_OPERATOR_TOKEN": secrets["operator_token"],
        "CENOTE_SSH_KEY": str(key),
        "CENOTE_SSH_PROXY": proxy,
    }
    text = "".join(f"export {line}\n" for line in env_text(values).splitlines())
    write(place.state / "demo.env", text, mode=0o600)


def first_guests(place: Place, tenant: Api) -> list[dict[str, Any]]:
    """Create the first VM and container, unless they were made before (also if somebody has deleted them since)."""
    marker = place.state / ".first-guests"
    if marker.exists():
        return []
    orders = []
    for name, image, flavor in FIRST:
        body = {"name": name, "image": image, "flavor": flavor, "keypairs": ["demo"], "tags": {"made-by": "deploy-up"}}
        # The key makes a run that was cut off after the create find its instance instead of making another.
        orders.append(tenant.post("/instances", body, key=f"first-{name}-{place.cloud_id}"))
    for order in orders:
        _wait_for_operation(tenant, order["operation"]["id"])
    shown = [tenant.get(f"/instances/{order['instance']['id']}") for order in orders]
    for instance in shown:
        _wait_for_ssh(place, instance)
    marker.touch()
    return shown


def _wait_for_operation(api: Api, operation_id: str) -> None:
    deadline = time.monotonic() + GUEST_SECONDS
    while time.monotonic() < deadline:
        operation = api.get(f"/operations/{operation_id}", wait=20)
        print(f" {operation['target']['name']} {operation['progress']} %", end="", file=sys.stderr, flush=True)
        if operation["state"] == "succeeded":
            return
        if operation["state"] in ("failed", "cancelled", "stuck"):
            raise SetupError(f"{operation['target']['name']}: {operation['state']}: {operation['error']}")
    raise SetupError(f"operation {operation_id} does not end")


def ssh_words(place: Place, instance: dict[str, Any]) -> list[str]:
    """Return the ssh command for an instance of the demo."""
    env = read_demo(place)
    return [
        *("ssh", "-q", "-i", env["CENOTE_SSH_KEY"], "-o", f"ProxyCommand={env['CENOTE_SSH_PROXY']}"),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10"),
        *("-o", "BatchMode=yes", f"{instance['default_user']}@{instance['addresses'][0]['address']}"),
    ]


def read_demo(place: Place) -> dict[str, str]:
    """Return demo.env's variables."""
    return {name.removeprefix("export "): value for name, value in read_env(place.state / "demo.env").items()}


def _wait_for_ssh(place: Place, instance: dict[str, Any]) -> None:
    deadline = time.monotonic() + GUEST_SECONDS
    while time.monotonic() < deadline:
        done = subprocess.run(
            [*ssh_words(place, instance), "hostname"], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode == 0 and done.stdout.strip() == instance["name"]:
            print(f" {instance['name']} answers", end="", file=sys.stderr, flush=True)
            return
        time.sleep(0.5)
    raise SetupError(f"{instance['name']} does not answer by SSH in {GUEST_SECONDS} s")


def lab_hosts(place: Place, count: int | None) -> list[LabHost]:
    """Return the hosts to bring up: those there are, or as many as were asked for.

    A lab that was never completed (`lab_complete`) is still owed the number it was begun with.
    """
    there = lab.hosts(place)
    owed = _owed(place)
    wanted = count if count is not None else (int(owed.read_text()) if owed.exists() else len(there) or 3)
    write(owed, f"{wanted}\n")
    numbers = {host.number for host in there} | set(range(1, wanted + 1))
    return [LabHost(place, number) for number in sorted(numbers)]


def lab_complete(place: Place) -> None:
    """Note that every host is there: from now on the lab is what `deploy/lab add` and `remove` make of it."""
    _owed(place).unlink(missing_ok=True)


def _owed(place: Place) -> Path:
    return place.state / "lab" / ".owed"
