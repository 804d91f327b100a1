"""What the control plane takes of the machine's memory: `python -m deploy.steps.footprint`.

Proportional set size: a page that several processes share counts once, divided among them. The lab's hosts and guests are
not counted, they stand for other machines.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.steps.place import Place
from deploy.steps.progress import SetupError
from deploy.steps.supervisor import Supervisor


def measure(place: Place) -> dict[str, float]:
    """Return the MiB of each program of the control plane, with all of its children, and of the supervisor itself.

    Raises SetupError when the cloud does not run.
    """
    supervisor = Supervisor(place)
    if not supervisor.running():
        raise SetupError(f"The cloud in {place.state} does not run.")
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            children.setdefault(_parent(int(entry.name)), []).append(int(entry.name))
    found = {"supervisord": _pss_mib(supervisor.pid())}
    for name, pid in supervisor.pids().items():
        # Programs of lab hosts are called host1-libvirtd and so on.
        if "-" not in name:
            found[name] = sum(_pss_mib(each) for each in _family(pid, children))
    return found


def _family(pid: int, children: dict[int, list[int]]) -> list[int]:
    return [pid, *(each for child in children.get(pid, []) for each in _family(child, children))]


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def main() -> int:
    try:
        found = measure(Place.here())
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    for name, mib in found.items():
        print(f"{name:<12} {mib:8.1f} MiB")
    print(f"{'sum':<12} {sum(found.values()):8.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
