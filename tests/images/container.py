"""One tiny container, unprivileged, as a domain of an `LxcHost`."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

from tests.images.lxchost import HostError, LxcHost
from tests.images.seeds import ssh_command, write_directory

FIRST_ID = 100_000
MAC = "52:54:00:ce:07:01"

DOMAIN = """<domain type='lxc'>
  <name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type>exe</type><init>/sbin/init</init></os>
  <idmap><uid start='0' target='{first}' count='65536'/><gid start='0' target='{first}' count='65536'/></idmap>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>
  <devices>
    <filesystem type='mount'><source dir='{root}'/><target dir='/'/></filesystem>
    <interface type='bridge'><mac address='{mac}'/><source bridge='bridge0'/></interface>
    <console type='pty'/>
  </devices>
</domain>
"""


def unpack(archive: Path, root: Path) -> None:
    """Unpack the image with its owner ids as they are in the archive."""
    root.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-p", "--numeric-owner", "-f", archive, "-C", root], check=True)


def shift_owners(root: Path) -> None:
    """Move every owner id of the tree into the user namespace's range."""
    for directory, names, files in os.walk(root):
        for path in [Path(directory), *(Path(directory, name) for name in files + names)]:
            status = path.lstat()
            if status.st_uid < FIRST_ID:
                os.lchown(path, status.st_uid + FIRST_ID, status.st_gid + FIRST_ID)
                if not stat.S_ISLNK(status.st_mode):
                    path.chmod(stat.S_IMODE(status.st_mode))  # chown has taken the set-user-id bits away


class TinyContainer:
    def __init__(self, host: LxcHost, image: Path, key: Path, meta: str, user: str) -> None:
        self.host, self.key, self.name = host, key, "tiny"
        root = host.directory / "root"
        unpack(image / "tiny-container.tar", root)
        write_directory(root / "var/lib/cloud/seed/nocloud", meta, user)
        shift_owners(root)
        definition = host.directory / "domain.xml"
        definition.write_text(DOMAIN.format(name=self.name, first=FIRST_ID, root=root, mac=MAC))
        host.virsh("define", definition)

    def start(self) -> float:
        """Start it; return the seconds until sshd answered."""
        begun = time.monotonic()
        self.host.virsh("start", self.name)
        self.wait_until_up()
        return time.monotonic() - begun

    def wait_until_up(self) -> None:
        address = self.host.lease(MAC)
        deadline = time.monotonic() + 30
        probe = ["bash", "-c", f'exec 3<>/dev/tcp/{address}/22 && read -r -t 2 -n 4 banner <&3 && [ "$banner" = SSH- ]']
        while True:
            try:
                self.host.run(*probe)
                return
            except HostError:
                assert time.monotonic() < deadline, "no sshd in the container"
                time.sleep(0.1)

    def ssh(self, command: str, *, user: str = "root") -> str:
        return self.host.run(*ssh_command(self.key, self.host.lease(MAC), 22, user, command))

    def ssh_last(self, command: str, *, user: str = "root") -> None:
        """Run what ends the container. 255 is ssh's word for a connection that ended first: what came of it, the caller sees."""
        try:
            self.ssh(command, user=user)
        except HostError as error:
            if error.returncode != 255:
                raise

    def state(self) -> str:
        return self.host.virsh("domstate", self.name)

    def wait_for_end(self, timeout: float = 60) -> float:
        begun = time.monotonic()
        while self.state() != "shut off":
            assert time.monotonic() - begun < timeout, "the container did not stop"
            time.sleep(0.1)
        return time.monotonic() - begun
