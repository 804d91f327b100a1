"""cenote ssh: the right address, user, key and proxy; an ssh of our own stands in for OpenSSH's."""

from __future__ import annotations

from pathlib import Path

from compute.models import Image, Instance
from tests.api.conftest import World
from tests.cli.conftest import Cli


def _prepare(cli: Cli, world: World) -> str:
    folder = cli.home / "bin"
    folder.mkdir()
    (folder / "ssh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    (folder / "ssh").chmod(0o755)
    cli.env["PATH"] = f"{folder}:{cli.env['PATH']}"
    Image.objects.update(default_user="debian")
    made = cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait", "-o", "json").json
    return str(made["addresses"][0]["address"])


def test_ssh_gets_address_user_key_proxy_and_command(cli: Cli, world: World, tmp_path: Path) -> None:
    address = _prepare(cli, world)
    heard = tmp_path / "heard"
    proxy = f"echo %h %p >> {heard}; printf SSH-2.0-x; cat"
    ran = cli.process(
        "ssh", "web", "--", "uname", "-a", code=7, CENOTE_SSH_KEY="/k", CENOTE_SSH_PROXY=f"sh -c '{proxy}'"
    )
    arguments = ran.out.splitlines()
    assert arguments[-3:] == [f"debian@{address}", "uname", "-a"]
    assert f"ProxyCommand=sh -c '{proxy}'" in arguments
    assert arguments[arguments.index("-i") + 1] == "/k"
    instance = Instance.unscoped.get()
    assert f"HostKeyAlias={instance.id}" in arguments
    assert heard.read_text() == f"{address} 22\n"


def test_ssh_waits_for_the_guest_and_gives_up_with_5(cli: Cli, world: World) -> None:
    _prepare(cli, world)
    ran = cli.process("instance", "ssh", "web", "--patience", "0.5", code=5, CENOTE_SSH_PROXY="false")
    assert "waiting for web" in ran.err
    assert "console-log" in ran.err


def test_a_stopped_guest_is_not_tried(cli: Cli, world: World) -> None:
    _prepare(cli, world)
    Instance.unscoped.update(state="error")
    assert "start it first" in cli("ssh", "web", code=4).err
