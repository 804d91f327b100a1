"""A real Debian 12 under QEMU's translation: systemd, control groups version 2, and a directory of this machine's by virtio-fs.

What namespaces cannot show. It is slow: what takes a second elsewhere takes ten here.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deploy.steps.place import REPO
from tests.images.conftest import build_environment
from tests.images.seeds import meta_data, write_iso
from tests.images.vm import Vm

VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
STORAGE = "/var/lib/cenote/shared"
MEMORY_MIB = 3072
# This machine's loopback, as the guest sees it through QEMU's user-mode network.
CLOUD_ADDRESS = "10.0.2.2"
BOOT_SECONDS = 600
TAG = "cenote-storage"


def build_machine(directory: Path, venv: Path) -> None:
    """Build the machine's disk: the Debian 12 image with this checkout, its environment `venv` and all packages in it."""
    env = {**build_environment(), "HOOK": str(REPO / "tests" / "cloud" / "furnish-root"), "DISK_GIB": "5"}
    command = [REPO / "deploy" / "images" / "build-debian-12", directory]
    done = subprocess.run(
        command, env={**env, "CENOTE_VENV": str(venv)}, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr


class Machine:
    """Use as a context manager: booted on entry, cut off on exit. `shared` is mounted at STORAGE, at each boot."""

    def __init__(self, image: Path, directory: Path, key: Path, *, name: str, shared: Path) -> None:
        self.name = name
        self._socket = directory / "storage.sock"
        self._shared = shared
        user_data = f"#cloud-config\nmounts:\n  - [{TAG}, {STORAGE}, virtiofs, 'defaults,nofail', '0', '0']\n"
        seed = write_iso(directory / "seed.iso", meta_data(name, name, key), user_data)
        self.vm = Vm(
            image,
            directory,
            seed,
            key,
            name="debian-12",
            memory_mib=MEMORY_MIB,
            extra=(
                *("-smp", "2", "-object", f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on"),
                *("-numa", "node,memdev=memory", "-chardev", f"socket,id=storage,path={self._socket}"),
                *("-device", f"vhost-user-fs-pci,chardev=storage,tag={TAG}"),
            ),
        )

    def __enter__(self) -> Machine:
        with contextlib.ExitStack() as stack:
            storage = subprocess.Popen(
                [VIRTIOFSD, f"--socket-path={self._socket}", "-o", f"source={self._shared}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # It ends with QEMU's connection; one that QEMU did not come to has to be ended.
            stack.callback(storage.wait)
            stack.callback(storage.kill)
            deadline = time.monotonic() + 20
            while not self._socket.exists():
                assert storage.poll() is None, "virtiofsd ended at once"
                assert time.monotonic() < deadline, "virtiofsd does not listen"
                time.sleep(0.05)
            stack.enter_context(self.vm)
            self.vm.wait_for_sshd(BOOT_SECONDS, patience=30)
            self._wait_for_systemd()
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._running.close()

    def _wait_for_systemd(self) -> None:
        """Wait until systemd has nothing left to start. 1: up, with a unit that failed; tests look at those they need."""
        self.root("systemctl is-system-running --wait || test $? = 1", timeout=BOOT_SECONDS)

    def reboot(self) -> None:
        """Reboot as an administrator would, and wait until it is up again."""
        before = self._boot_id()
        with contextlib.suppress(subprocess.SubprocessError):
            self.root("systemctl reboot")
        deadline = time.monotonic() + BOOT_SECONDS
        while self._boot_id() in ("", before):
            assert time.monotonic() < deadline, f"no reboot within {BOOT_SECONDS} s:\n{self.vm.console_text()[-3000:]}"
            time.sleep(3)
        self._wait_for_systemd()

    def _boot_id(self) -> str:
        with contextlib.suppress(subprocess.SubprocessError):
            return self.vm.ssh("cat /proc/sys/kernel/random/boot_id", user="debian", timeout=30)
        return ""

    def root(self, command: str, *, timeout: float = 120) -> str:
        """Run as root in the machine and return what it prints. Raises CalledProcessError when it fails."""
        try:
            return self.vm.ssh(f"sudo sh -c {shlex.quote(command)}", user="debian", timeout=timeout)
        except subprocess.CalledProcessError as error:
            print(f"{command}\n{error.stdout}\n{error.stderr}", file=sys.stderr)
            raise
