"""A libvirt host for containers in namespaces of its own, with one bridge and a DHCP server, to prove an image by.

Everything it starts lives in its PID namespace and ends with it. The product's own lab is not used here, so that an
image can be judged without it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from pathlib import Path
from typing import Self

SCRIPT = Path(__file__).with_name("lxc-host.sh")
GATEWAY = "10.99.7.1"
CONNECT = ("virsh", "--quiet", "--connect", "lxc:///system")


class HostError(Exception):
    """A program inside the host ended with an error. `returncode`: which."""

    def __init__(self, message: str, returncode: int) -> None:
        super().__init__(message)
        self.returncode = returncode


class LxcHost:
    """Use as a context manager. `run` runs a program inside the host's namespaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        namespaces = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        environment = {**os.environ, "HOST_UUID": str(uuid.uuid4()), "GATEWAY": GATEWAY}
        with (self.directory / "host.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*namespaces, "bash", SCRIPT, self.directory], env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        while not (self.directory / "ready").exists():
            text = (self.directory / "host.log").read_text()
            assert self.process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process
        with contextlib.suppress(HostError):
            for name in self.virsh("list", "--name").split():
                # Destroyed by libvirt, so that the container's cgroups go too; the namespace's end would leave them.
                self.virsh("destroy", name)
        self.process.kill()
        self.process.wait()

    def run(self, *command: str | Path, timeout: float = 30) -> str:
        """Run a program inside; return its output. Raises HostError with what it complained of."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        words = ["nsenter", "--target", children[0], "--mount", "--net", "--uts", "--pid", "--", *command]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or done.returncode
            raise HostError(f"{command}: {said}", done.returncode)
        return done.stdout.strip()

    def virsh(self, *arguments: str | Path) -> str:
        return self.run(*CONNECT, *arguments)

    def lease(self, mac: str, timeout: float = 30) -> str:
        """Return the address that DHCP gave to `mac`, waiting for it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in (self.directory / "leases").read_text().splitlines():
                if line.split()[1] == mac:
                    return line.split()[2]
            time.sleep(0.1)
        raise AssertionError(f"{mac} asked for no address within {timeout} s")
