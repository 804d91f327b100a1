"""Which driver switches which host off: read from the operators' file, `CENOTE_FENCING_FILE`, each time it is asked.

Never from the database: who may write rows must not thereby run programs or learn a controller's password. As TOML:

    [default]                       # for hosts that are not named
    driver = "command"
    argv = ["/usr/local/sbin/fence", "{host}"]

    [hosts.n0003]
    driver = "redfish"
    url = "https://n0003-bmc.example"
    system = "/redfish/v1/Systems/1"
    username = "fence"
    password_file = "/etc/cenote/bmc/n0003"
    ca_file = "/etc/cenote/bmc/ca.pem"
    seconds = 60
"""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

from compute.fencing.base import FenceDriver, FenceFailed
from compute.fencing.command import CommandFence
from compute.fencing.redfish import RedfishFence

LONGEST_SECONDS = 120.0
DRIVERS = ("command", "redfish")


def driver_of(file: Path, host_name: str) -> str:
    """Return the name of the host's driver; "" where none that is known is configured, or the file cannot be used."""
    try:
        found = _section(file, host_name).get("driver")
    except FenceFailed:
        return ""
    return found if found in DRIVERS else ""


def open_fence(file: Path, host_name: str) -> FenceDriver:
    """Return the driver that is configured for a host. Raises FenceFailed, naming what is wrong with the file."""
    section = _section(file, host_name)
    if not section:
        raise FenceFailed(f"{file} names no driver for {host_name}")
    seconds = section.get("seconds", 60)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= LONGEST_SECONDS:
        raise FenceFailed(f"{file}: seconds of {host_name} is a number from 1 to {LONGEST_SECONDS:g}")
    match section.get("driver"):
        case "command":
            argv = section.get("argv")
            if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
                raise FenceFailed(f"{file}: argv of {host_name} is a list of texts")
            return CommandFence(tuple(argv), seconds=seconds)
        case "redfish":
            url, system, username, password_file = (
                _text(file, section, key) for key in ("url", "system", "username", "password_file")
            )
            return RedfishFence(
                url=url.rstrip("/"),
                system=system,
                username=username,
                password=_secret(Path(password_file)),
                verify=section.get("ca_file") or True,
                seconds=seconds,
            )
    raise FenceFailed(f"{file}: the driver of {host_name} is command or redfish")


def _section(file: Path, host_name: str) -> dict[str, Any]:
    try:
        if file.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise FenceFailed(f"{file} can be written by others than its owner")
        data = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FenceFailed(f"{file} cannot be read: {error}") from None
    hosts = data.get("hosts")
    found = hosts.get(host_name) if isinstance(hosts, dict) else None
    section = data.get("default", {}) if found is None else found
    return section if isinstance(section, dict) else {}


def _text(file: Path, section: dict[str, Any], key: str) -> str:
    value = section.get(key)
    if not isinstance(value, str) or not value:
        raise FenceFailed(f"{file}: {key} is missing")
    return value


def _secret(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise FenceFailed(f"{file} cannot be read") from None
