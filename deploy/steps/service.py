"""Where systemd is PID 1: a unit that only starts and stops the cloud's own supervisor, so that it survives a reboot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from deploy.steps.files import write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import run

UNITS = Path("/etc/systemd/system")


def has_systemd() -> bool:
    """Return whether systemd runs this machine (its package alone says nothing)."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def cloud_unit(place: Place) -> tuple[str, str]:
    """Return name and text of the cloud's unit."""
    template = (REPO / "deploy" / "systemd" / "cenote-cloud.service").read_text()
    text = template.replace("@REPO@", str(REPO)).replace("@STATE@", str(place.state)).replace("@VENV@", str(place.venv))
    return f"cenote-{place.cloud_id}.service", text


def node_unit() -> tuple[str, str]:
    """Return name and text of the node worker's unit on a real machine."""
    template = (REPO / "deploy" / "systemd" / "cenote-node.service").read_text()
    return "cenote-node.service", template.replace("@REPO@", str(REPO))


def enable(name: str, text: str, *, now: bool = False) -> None:
    """Install a unit and have it start at boot, and `now` too."""
    if write(UNITS / name, text):
        run("systemctl", "daemon-reload")
    run("systemctl", "enable", *(["--now"] if now else []), name)


def disable(name: str) -> None:
    """Take a unit away, if it is there. What it started is not touched."""
    if (UNITS / name).exists():
        subprocess.run(["systemctl", "disable", name], capture_output=True, check=False)
        (UNITS / name).unlink(missing_ok=True)
        run("systemctl", "daemon-reload")
