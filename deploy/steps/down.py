"""`deploy/down`: ends the lab and the control plane. Data stays, unless `--purge` is given."""

from __future__ import annotations

import argparse
import shutil
import sys

from deploy.labhosts import lab, namespaces
from deploy.steps import service
from deploy.steps.lock import only_one
from deploy.steps.place import Place
from deploy.steps.progress import Progress, SetupError
from deploy.steps.supervisor import Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/down", description="Stop the cloud. Its data stays.")
    parser.add_argument("--purge", action="store_true", help="delete its data as well: guests, database, images")
    parser.add_argument("--for-reboot", action="store_true", help="stay enabled in systemd: the machine is going down")
    options = parser.parse_args()
    place = Place.here()
    for_good = service.has_systemd() and not options.for_reboot
    progress = Progress(2 + for_good + options.purge)
    try:
        # A machine that goes down ends whoever has the lock: that is worth waiting for.
        with only_one(place, patience=60.0 if options.for_reboot else 0.0):
            if for_good:
                service.disable(service.cloud_name(place))
            _take_down(place, progress, purge=options.purge)
        if for_good:
            # Without the lock: the unit's own `deploy/down` takes it, and finds nothing left to do.
            with progress.step("systemd's units"):
                service.remove(place)
        if options.purge:
            with only_one(place), progress.step("Data"):
                if Supervisor(place).running():  # the lock was free for a moment
                    raise SetupError("Another deploy/up has brought the cloud back meanwhile: its data stays.")
                _purge(place)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def _take_down(place: Place, progress: Progress, *, purge: bool) -> None:
    supervisor = Supervisor(place)
    with progress.step("Lab hosts and their guests"):
        if supervisor.running() and not purge:
            left = lab.shut_down_guests(supervisor, [host for host in lab.hosts(place) if host.exists()])
            if left:
                print(f" {left} did not shut down in time:", end="", file=sys.stderr, flush=True)
        for host in lab.hosts(place):
            lab.power_off(supervisor, host) if supervisor.running() else namespaces.end_processes(host)
            namespaces.unmake(host)
        namespaces.unmake_switch(place)
    with progress.step("Control plane"):
        supervisor.shutdown()


def _purge(place: Place) -> None:
    """Delete all of the state but the virtual environment, in which this runs; deploy/down deletes that."""
    for entry in place.state.iterdir():
        if entry == place.venv or entry.name in ("testdb", "testdb.lock", "test-cloud"):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


if __name__ == "__main__":
    sys.exit(main())
