"""cenote ssh NAME [-- COMMAND...]"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from typing import Annotated, Any, Final

import typer

from cloud.cli import config
from cloud.cli.commands.instances import quoted
from cloud.cli.errors import CONFLICT, NOT_FOUND, TIMEOUT, CliError
from cloud.cli.session import Session, command

_PORT: Final = 22
_USER: Final = "cenote"
_PROBE_SECONDS: Final = 5.0


def register(root: typer.Typer) -> None:
    """Add the command."""
    command(root, "ssh")(ssh)


def ssh(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name or id of the instance")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="Run this instead of a shell")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The image's own user unless told")] = None,
    key: Annotated[str | None, typer.Option("--identity", help="Private key; CENOTE_SSH_KEY unless told")] = None,
    patience: Annotated[float, typer.Option(help="Seconds to wait for the guest to answer", min=0)] = 60.0,
) -> None:
    """Log in to a guest, or run a command there; ends with that command's exit code."""
    instance = session.client.get("instances/" + quoted(name))
    address = _address(instance)
    login = user or _image_user(session, instance)
    proxy = session.context.ssh_proxy
    if patience:
        _await_answer(session, instance["name"], address, proxy, patience)
    program = shutil.which("ssh")
    if program is None:
        raise CliError("there is no ssh on this machine: install the OpenSSH client")
    config.folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    line = [
        program,
        *_options(instance, proxy, key or session.context.ssh_key),
        f"{login}@{address}",
        *(arguments or []),
    ]
    os.execv(program, line)  # noqa: S606  the very purpose: ssh takes over this terminal


def _options(instance: dict[str, Any], proxy: str, key: str) -> list[str]:
    known = config.folder() / "known_hosts"
    # Addresses are used again by later guests; the id is not, so the key that was seen first stays the right one.
    options = ["-o", f"UserKnownHostsFile={known}", "-o", f"HostKeyAlias={instance['id']}"]
    options += ["-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR"]
    if proxy:
        options += ["-o", f"ProxyCommand={proxy}"]
    if key:
        options += ["-i", key, "-o", "IdentitiesOnly=yes"]
    return options


def _address(instance: dict[str, Any]) -> str:
    if instance["status"] not in ("running", "rebooting", "building", "starting"):
        raise CliError(f"{instance['name']} is {instance['status']}: start it first", CONFLICT)
    if not instance["addresses"]:
        raise CliError(f"{instance['name']} has no address", CONFLICT)
    return str(instance["addresses"][0]["address"])


def _image_user(session: Session, instance: dict[str, Any]) -> str:
    try:
        return str(session.client.get(f"images/{instance['image']['id']}")["default_user"])
    except CliError as error:
        if error.exit_code != NOT_FOUND:  # an image that was replaced meanwhile is no longer offered
            raise
        return _USER


def _await_answer(session: Session, name: str, address: str, proxy: str, seconds: float) -> None:
    """A guest that has just started answers a few seconds later; ssh itself would give up at once."""
    until, told = time.monotonic() + seconds, False
    while not _answers(address, proxy):
        if time.monotonic() > until:
            raise CliError(
                f"{name} does not answer at {address} port {_PORT}; see: cenote instance console-log {name}", TIMEOUT
            )
        if not told:
            session.say(f"waiting for {name} to answer at {address} ...")
            told = True
        time.sleep(0.5)


def _answers(address: str, proxy: str) -> bool:
    """Whether an SSH server speaks there; through the proxy command as ssh would run it, where there is one."""
    if not proxy:
        try:
            with socket.create_connection((address, _PORT), timeout=_PROBE_SECONDS) as connection:
                connection.settimeout(_PROBE_SECONDS)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False
    line = proxy.replace("%h", address).replace("%p", str(_PORT))
    # Its input stays open while it is listened to: some proxies end with their input.
    probe = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {line}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        output, _ = _read_some(probe)
    finally:
        probe.kill()
        probe.wait()
    return output == b"SSH-"


def _read_some(probe: subprocess.Popen[bytes]) -> tuple[bytes, bool]:
    assert probe.stdout is not None
    os.set_blocking(probe.stdout.fileno(), False)
    until, heard = time.monotonic() + _PROBE_SECONDS, b""
    while len(heard) < 4 and time.monotonic() < until:
        piece = probe.stdout.read(4 - len(heard))
        if piece == b"":
            return heard, True
        heard += piece or b""
        time.sleep(0.02)
    return heard, False
