"""One VM under plain QEMU with translation, reached through a loopback port."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.images.seeds import ssh_command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Vm:
    """Use as a context manager: boots on entry, is cut off on exit. `directory` holds its disk across several boots."""

    def __init__(
        self,
        image: Path,
        directory: Path,
        seed: Path | None,
        key: Path,
        *,
        machine: str = "q35",
        name: str = "tiny",
        memory_mib: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.image, self.directory, self.seed, self.key = image, directory, seed, key
        self.machine, self.name, self.memory_mib, self.extra = machine, name, memory_mib, tuple(extra)
        self.manifest: dict[str, Any] = json.loads((image / f"{name}.json").read_text())
        self.console = directory / "console.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        disk = directory / "disk.qcow2"
        if not disk.exists():
            size = f"{self.manifest['min_disk_gib'] + 1}G"
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
            command += [str(image / f"{name}.qcow2"), str(disk), size]
            subprocess.run(command, check=True)

    def __enter__(self) -> Self:
        self.console.unlink(missing_ok=True)
        self.started = time.monotonic()
        self.process = subprocess.Popen(self._command())
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def _command(self) -> list[str]:
        command = ["qemu-system-x86_64", "-machine", f"{self.machine},accel=tcg", "-cpu", "max"]
        command += ["-m", str(self.memory_mib or self.manifest["min_memory_mib"] + 32)]
        command += ["-nodefaults", "-display", "none", "-serial", f"file:{self.console}"]
        command += [
            "-kernel",
            str(self.image / f"{self.name}.kernel"),
            "-initrd",
            str(self.image / f"{self.name}.initrd"),
        ]
        command += ["-append", self.manifest["kernel_args"]]
        command += ["-drive", f"file={self.directory / 'disk.qcow2'},if=virtio,format=qcow2"]
        if self.seed:
            command += ["-drive", f"file={self.seed},if=virtio,format=raw,readonly=on"]
        command += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        command += ["-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        command += ["-chardev", f"socket,path={self.directory / 'agent.sock'},server=on,wait=off,id=agent"]
        command += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        return [*command, "-qmp", f"unix:{self.directory / 'qmp.sock'},server=on,wait=off", *self.extra]

    def wait_for_sshd(self, timeout: float = 60, *, patience: float = 0.3) -> float:
        """Return the seconds from power-on until sshd sent its banner. Each asking forks in the guest: `patience` is how
        long one waits for its answer, before the next."""
        while time.monotonic() - self.started < timeout:
            assert self.process
            assert self.process.poll() is None, self.console_text()
            try:
                # QEMU takes the connection long before the guest does: only the banner proves sshd.
                with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as connection:
                    if connection.recv(4) == b"SSH-":
                        return time.monotonic() - self.started
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"no sshd within {timeout} s; the console says:\n{self.console_text()}")

    def seconds_in_queue(self) -> float:
        """Return how long the guest's processor, QEMU's busiest thread, has stood in line for one of this machine's: other
        work's share of a guest's slowness."""
        assert self.process
        ran_and_waited = [(0, 0)]
        for file in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has ended meanwhile
                ran, waited, _ = file.read_text().split()
                ran_and_waited.append((int(ran), int(waited)))
        return max(ran_and_waited)[1] / 1e9

    def wait_for_console(self, text: str, timeout: float = 60, *, times: int = 1) -> None:
        """Wait until the console has said `text`, so many times since power-on."""
        deadline = time.monotonic() + timeout
        while self.console_text().count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} did not come; the console says:\n{self.console_text()}"
            time.sleep(0.1)

    def wait_for_end(self, timeout: float) -> float:
        """Return the seconds until QEMU had ended by itself."""
        assert self.process
        begun = time.monotonic()
        self.process.wait(timeout)
        return time.monotonic() - begun

    def console_text(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def ssh(self, command: str, *, user: str = "root", timeout: float = 60) -> str:
        """Run `command` in the guest and return what it wrote. Raises CalledProcessError when it fails."""
        words = ssh_command(self.key, "127.0.0.1", self.port, user, command)
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=timeout).stdout.strip()

    def ssh_last(self, command: str) -> None:
        """Run what ends the guest. 255 is ssh's word for a connection that ended first: what came of it, the caller sees."""
        try:
            self.ssh(command)
        except subprocess.CalledProcessError as error:
            if error.returncode != 255:
                raise

    def qmp(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.directory / "qmp.sock"))
            lines = connection.makefile("rw")
            lines.readline()
            for name in ("qmp_capabilities", command):
                lines.write(json.dumps({"execute": name}) + "\n")
                lines.flush()
                lines.readline()

    def agent(self, command: str) -> dict[str, Any]:
        """Ask the guest agent; returns its answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.directory / "agent.sock"))
            lines = connection.makefile("rw")
            lines.write(json.dumps({"execute": command}) + "\n")
            lines.flush()
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer
