"""`deploy/up`, after the packages: from secrets to a first VM and container. Run again, it mends and changes nothing."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from deploy.labhosts import lab
from deploy.steps import control, demo, restore, service
from deploy.steps.files import write
from deploy.steps.lock import only_one
from deploy.steps.place import REPO, Place
from deploy.steps.progress import Progress, SetupError
from deploy.steps.supervisor import Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/up", description="Bring the whole cloud up on this machine.")
    parser.add_argument(
        "--hosts", type=int, default=None, metavar="N", help="lab hosts (3 unless told, or as many as there are)"
    )
    parser.add_argument("--no-guests", action="store_true", help="do not create the first VM and container")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        help="also open a TLS door there, for real machines that join (kept; '' closes it)",
    )
    parser.add_argument(
        "--known-as",
        metavar="NAME",
        action="append",
        default=[],
        help="with --listen: an address or name by which machines reach that door, behind a router; may be repeated",
    )
    options = parser.parse_args()
    if options.known_as and not options.listen:
        parser.error("--known-as goes with --listen")
    if options.hosts is not None and not 1 <= options.hosts <= 20:
        parser.error("--hosts is a number from 1 to 20")
    os.umask(0o022)
    place = Place.here()
    if len(str(place.private / "postgres" / ".s.PGSQL.5432")) > 105:
        print(
            f"The path {place.state} is too long for unix sockets: set CENOTE_STATE_DIR to a shorter one.",
            file=sys.stderr,
        )
        return 1
    try:
        with only_one(place):
            if (place.state / restore.MARK).exists():
                raise SetupError("A restore was cut off here: run deploy/restore again before anything else.")
            place.make()
            if options.listen is not None:
                control.set_door(place, options.listen, options.known_as)
            progress = Progress(9 + service.has_systemd())
            secrets = _bring_up(place, progress, options.hosts, guests=not options.no_guests)
        if service.has_systemd():
            # Without the lock: the unit runs this command once more, as at the next boot, and finds all of it done.
            with progress.step("systemd's units"):
                service.enable(service.cloud_name(place), service.cloud_unit(place))
                service.start(service.cloud_name(place))
    except SetupError as error:
        print(f"\n{error}\nNothing is lost: mend what is said above and run deploy/up again.", file=sys.stderr)
        return 1
    _tell(place, secrets)
    return 0


def _bring_up(place: Place, progress: Progress, count: int | None, *, guests: bool) -> dict[str, str]:
    """Return the demo's secrets."""
    supervisor = Supervisor(place)
    with progress.step("Secrets"):
        values = control.make_secrets(place)
    with progress.step("PostgreSQL and Redis"):
        control.make_database(place)
        control.make_broker(place, values["CENOTE_BROKER_PASSWORD"])
        changed = supervisor.configure("control", control.programs(place))
        supervisor.ensure()
        if changed:
            supervisor.apply()
        control.start_stores(place, supervisor)
    with progress.step("Database schema"):
        fresh = _code_changed(place)
        if fresh or changed:
            control.manage(place, "migrate", "--no-input", timeout=300)
            control.manage(place, "collectstatic", "--no-input", timeout=300)
    with progress.step("Web and workers"):
        control.start_services(place, supervisor, fresh=fresh or changed)
        write(place.state / ".code", _code(), mode=0o644)
    with progress.step("Guest images"):
        demo.build_images(place)
        demo.import_images(place)
    with progress.step("Pool, flavors, demo tenant"):
        secrets = demo.seed(place)
    hosts = demo.lab_hosts(place, count)
    with progress.step(f"Lab of {len(hosts)} hosts"):
        lab.write_fencing(place, hosts)
        began, rebooted, before = datetime.now(UTC), False, supervisor.status()
        for host in hosts:
            rebooted |= lab.start_libvirt(place, supervisor, host, count=len(hosts))
        for host in hosts:
            lab.start_node(supervisor, host)
            if fresh and before.get(f"{host.name}-node") == "RUNNING":
                supervisor.restart(f"{host.name}-node")
        demo.lab_complete(place)
    operator, tenant = demo.Api(place, secrets["operator_token"]), demo.Api(place, secrets["token"])
    with progress.step("Hosts prove themselves (they boot real guests)"):
        demo.wait_for_hosts(place, operator, [host.name for host in hosts])
        if rebooted:
            demo.wait_for_guests(operator, since=began)
    with progress.step("First VM and first container"):
        key = demo.make_key(place, tenant)
        demo.write_demo_env(place, secrets, key)
        if guests:
            demo.first_guests(place, tenant)
    return secrets


def _code() -> str:
    """Return a digest of the code that long-running processes have loaded."""
    digest = hashlib.sha256()
    for folder in ("cloud", "compute", "tenants"):
        for file in sorted((REPO / folder).rglob("*")):
            if file.is_file() and file.suffix not in (".pyc",):
                digest.update(f"{file}{file.stat().st_size}{file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _code_changed(place: Place) -> bool:
    kept: Path = place.state / ".code"
    return not kept.exists() or kept.read_text() != _code()


def _tell(place: Place, secrets: dict[str, str]) -> None:
    demo_env = place.state / "demo.env"
    unit = f"\n    service   systemctl status {service.cloud_name(place)}" if service.has_systemd() else ""
    print(
        f"""
Cenote is up at {place.url}

    tenant    user demo      password {secrets["demo_password"]}
    viewer    user viewer    password {secrets["viewer_password"]}
    operator  user operator  password {secrets["operator_password"]}   (console at {place.url}/console/){unit}

Three things to try:
    . {demo_env}
    {REPO}/deploy/cenote instance list
    {REPO}/deploy/cenote ssh first-vm -- uname -a
    {REPO}/deploy/cenote instance create web --image tiny-container --flavor nano --keypair demo --wait
"""
    )


if __name__ == "__main__":
    sys.exit(main())
