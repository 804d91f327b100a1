"""Where systemd is PID 1: the cloud's unit, and the service of its own in which the cloud's supervisor runs.

The supervisor must be no child of the shell that ran `deploy/up`: systemd ends a session's processes, guests and
PostgreSQL among them, while it still waits for the cloud's unit to shut them down in good order.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from deploy.steps.files import write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import SetupError, run

UNITS = Path("/etc/systemd/system")
# Units that a reboot takes away.
PASSING_UNITS = Path("/run/systemd/system")
# No shorter than what the units themselves say.
START_SECONDS = 1860.0


def has_systemd() -> bool:
    """Return whether systemd runs this machine (its package alone says nothing)."""
    return PASSING_UNITS.is_dir() and shutil.which("systemctl") is not None


def cloud_name(place: Place) -> str:
    """Return the name of the unit that people start, stop and look at."""
    return f"cenote-{place.cloud_id}.service"


def supervisor_name(place: Place) -> str:
    """Return the name of the service that has all of the cloud's processes. It is there while the cloud is up."""
    return f"cenote-{place.cloud_id}-supervisor.service"


def cloud_unit(place: Place) -> str:
    """Return the text of the cloud's unit."""
    return _fill("cenote-cloud.service", place)


def supervisor_unit(place: Place) -> str:
    """Return the text of the service that has the cloud's processes."""
    return _fill("cenote-supervisor.service", place)


def _fill(template: str, place: Place) -> str:
    text = (REPO / "deploy" / "systemd" / template).read_text()
    for name, value in (
        ("@REPO@", REPO),
        ("@STATE@", place.state),
        ("@VENV@", place.venv),
        ("@SUPERVISOR@", supervisor_name(place)),
    ):
        text = text.replace(name, str(value))
    return text


def node_unit() -> tuple[str, str]:
    """Return name and text of the node worker's unit on a real machine."""
    template = (REPO / "deploy" / "systemd" / "cenote-node.service").read_text()
    return "cenote-node.service", template.replace("@REPO@", str(REPO))


def enable(name: str, text: str, *, now: bool = False) -> None:
    """Install a unit and have it start at boot, and `now` too."""
    if write(UNITS / name, text):
        run("systemctl", "daemon-reload")
    run("systemctl", "enable", *(["--now"] if now else []), name)


def start(name: str) -> None:
    """Start a unit that does not run. One that is on its way is left alone: this may be its own ExecStart."""
    state = subprocess.run(["systemctl", "is-active", name], capture_output=True, text=True, check=False).stdout.strip()
    if state in ("active", "activating", "reloading"):
        return
    try:
        run("systemctl", "start", name, timeout=START_SECONDS)
    except SetupError:
        raise SetupError(f"{name} does not start: journalctl -u {name} tells why.") from None


def start_supervisor(place: Place) -> None:
    """Start the service of the cloud's processes: no transient one, whose name is taken while guests of a killed one run."""
    if write(PASSING_UNITS / supervisor_name(place), supervisor_unit(place)):
        run("systemctl", "daemon-reload")
    start(supervisor_name(place))


def disable(name: str) -> None:
    """Have a unit not start at boot any more. It and what it started are not touched."""
    if (UNITS / name).exists():
        run("systemctl", "disable", name)


def remove(place: Place) -> None:
    """Stop the cloud's units and take them away, as far as they are there."""
    for file in (UNITS / cloud_name(place), PASSING_UNITS / supervisor_name(place)):
        if file.exists():
            run("systemctl", "stop", file.name, timeout=START_SECONDS)
            disable(file.name)
            file.unlink()
            run("systemctl", "daemon-reload")
            # One that failed once would be shown until that is forgotten.
            subprocess.run(["systemctl", "reset-failed", file.name], capture_output=True, check=False)
