"""`deploy/backup FILE`: one archive (0600, it holds every secret) from which `deploy/restore` makes the cloud again.

Always in it: the database, secrets, the certificate authority, the hosts' joins, and the images. Guests' disks only with
--storage, and then the cloud has to be down: the disk of a running guest, copied while it writes, is no backup.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from deploy.labhosts import lab
from deploy.steps import control
from deploy.steps.files import read_env
from deploy.steps.lock import only_one
from deploy.steps.place import Place
from deploy.steps.progress import Progress, SetupError, run
from deploy.steps.supervisor import Supervisor

FORMAT = 1
# Of the state directory, without guests' disks. What is not there is left out.
KEPT = (
    *("cloud.env", "demo.env", "demo.json", "demo_key", "demo_key.pub", "port", ".first-guests"),
    *("ca", "images", "shared/.cenote-storage", "shared/images", "shared/proof"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/backup", description="Write a backup of the cloud to one file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--storage", action="store_true", help="guests' disks too (run deploy/down before)")
    options = parser.parse_args()
    place = Place.here()
    try:
        with only_one(place):
            backup(place, options.file.absolute(), storage=options.storage)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"{options.file} holds the cloud and its secrets: keep it safe.")
    return 0


def backup(place: Place, file: Path, *, storage: bool) -> None:
    """Write the archive. Raises SetupError, and leaves no half archive under `file`'s name."""
    if not (place.state / "postgres" / "made").exists():
        raise SetupError(f"There is no cloud in {place.state}.")
    on = [host.name for host in lab.hosts(place) if host.exists()]
    if storage and on:
        raise SetupError(f"Guests' disks can only be copied at rest, but {', '.join(on)} is on: run deploy/down first.")
    supervisor, progress = Supervisor(place), Progress(2)
    asleep = not supervisor.running()
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=place.state) as folder:
        try:
            with progress.step("Database"):
                if asleep:
                    supervisor.ensure()
                    control.start_stores(place, supervisor)
                _dump(place, Path(folder) / "database.dump")
        finally:
            if asleep:
                supervisor.shutdown()
        (Path(folder) / "backup.json").write_text(
            json.dumps(
                {
                    "format": FORMAT,
                    "state": str(place.state),
                    "storage": storage,
                    "made_at": datetime.now(UTC).isoformat(),
                }
            )
        )
        with progress.step("Archive"):
            _archive(place, Path(folder), file, storage=storage)


def _dump(place: Place, target: Path) -> None:
    password = read_env(place.state / "cloud.env")["CENOTE_DATABASE_PASSWORD"]
    run(
        *("pg_dump", "--format=custom", "-h", place.private / "postgres", "-U", "cenote", "-d", "cenote"),
        *("-f", target),
        env={"PGPASSWORD": password, "PATH": os.environ["PATH"]},
        timeout=3600,
    )


def _archive(place: Place, folder: Path, file: Path, *, storage: bool) -> None:
    kept = [name for name in KEPT if (place.state / name).exists()]
    for host in lab.hosts(place):
        kept += [f"lab/{host.name}/etc", f"lab/{host.name}/cenote/node"]
        if storage:
            # Where libvirt keeps its definitions, and what guests left on their host alone.
            kept += [f"lab/{host.name}/lib", f"lab/{host.name}/cenote/local"]
    if storage:
        kept += ["shared/instances"]
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    # Made with its mode, not given it later: it is never readable by others.
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        run(
            *("tar", "--create", "--sparse", "--numeric-owner", "--xattrs", "--exclude=*.sock", "--file", partial),
            *("--exclude=images/.cache", "-C", folder, "backup.json", "database.dump", "-C", place.state),
            *(name for name in kept if (place.state / name).exists()),
            timeout=6 * 3600,
        )
        run("sync", partial)
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
