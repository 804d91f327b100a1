"""`deploy/restore FILE`: lays a backup out in an empty state directory; `deploy/up` then brings the cloud up from it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from deploy.labhosts import lab
from deploy.steps import control
from deploy.steps.backup import FORMAT
from deploy.steps.files import read_env, write
from deploy.steps.lock import only_one
from deploy.steps.place import Place
from deploy.steps.progress import Progress, SetupError, run
from deploy.steps.supervisor import Supervisor

MARK = ".restoring"


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/restore", description="Lay a backup out. Then run deploy/up.")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    place = Place.here()
    try:
        with only_one(place):
            restore(place, options.file.absolute())
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print("The backup is laid out. deploy/up brings the cloud up from it.")
    return 0


def restore(place: Place, file: Path) -> None:
    """Unpack, and load the database. Cut off, it is begun anew by the next run; deploy/up refuses until it has ended."""
    mark = place.state / MARK
    if (place.state / "cloud.env").exists() and not mark.exists():
        raise SetupError(f"There is a cloud in {place.state}. A restore needs an empty one: deploy/down --purge.")
    try:
        manifest = json.loads(run("tar", "--extract", "--to-stdout", "--file", file, "backup.json"))
    except (SetupError, ValueError):
        raise SetupError(f"{file} is not a backup made by deploy/backup.") from None
    if manifest.get("format") != FORMAT:
        raise SetupError(f"{file} has format {manifest.get('format')}; this version reads {FORMAT}.")
    mark.touch()
    progress, supervisor = Progress(2), Supervisor(place)
    supervisor.shutdown()
    with progress.step("Files"):
        shutil.rmtree(place.state / "postgres", ignore_errors=True)
        run(
            "tar", "--extract", "--numeric-owner", "--xattrs", "-p", "-C", place.state, "--file", file, timeout=6 * 3600
        )
        (place.state / "backup.json").unlink()
        if "CENOTE_PORT" in os.environ:
            # Another place, another port: what the archive brought would win otherwise.
            (place.state / "port").unlink(missing_ok=True)
        place = Place.here()
        place.make()
        _move_paths(place, str(manifest["state"]))
    with progress.step("Database"):
        values = control.make_secrets(place)
        control.make_database(place)
        control.make_broker(place, values["CENOTE_BROKER_PASSWORD"])
        supervisor.configure("control", control.programs(place))
        try:
            supervisor.ensure()
            control.start_stores(place, supervisor)
            dump = place.state / "database.dump"
            run(
                *("pg_restore", "--no-owner", "--exit-on-error", "--single-transaction"),
                *("-h", place.private / "postgres", "-U", "cenote", "-d", "cenote", dump),
                env={"PGPASSWORD": values["CENOTE_DATABASE_PASSWORD"], "PATH": os.environ["PATH"]},
                timeout=3600,
            )
        finally:
            supervisor.shutdown()
    dump.unlink()
    mark.unlink()


def _move_paths(place: Place, old: str) -> None:
    """A backup may be laid out elsewhere: lab hosts know the cloud by the paths of its two sockets."""
    if old == str(place.state):
        return
    for host in lab.hosts(place):
        file = host.dir / "etc" / "cenote" / "node.env"
        if file.exists():
            write(file, file.read_text().replace(f"{old}/", f"{place.state}/"), mode=0o600)
    known = read_env(place.state / "cloud.env")
    text = (place.state / "cloud.env").read_text().replace(f"{old}/", f"{place.state}/")
    # The address is taken anew from the port, unless somebody gave the cloud one of its own.
    if known.get("CENOTE_URL", "").startswith("http://127.0.0.1:"):
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("CENOTE_URL="))
    write(place.state / "cloud.env", text, mode=0o600)


if __name__ == "__main__":
    sys.exit(main())
