"""A Debian 12 whose PID 1 is systemd, in a container of systemd-nspawn: its own kernel's speed, and real shutdowns and boots.

The container has a network of its own with no way out, and control groups of its own. It sees this machine's devices
read-only and no udev runs in it, so that it cannot touch them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deploy.steps.place import REPO

CGROUPS = Path("/sys/fs/cgroup")
CHECKOUT = "/opt/cenote"
BOOT_SECONDS = 300
POWER_OFF_SECONDS = 240
# systemd-nspawn shows controllers read-only; libvirt has to make groups in them, as on a machine.
WRITABLE_CGROUPS = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c 'for each in /sys/fs/cgroup /sys/fs/cgroup/*; do ! mountpoint -q $$each || mount -o remount,bind,rw $$each; done'
"""
# ioctl_nsfs(2); kernels before 6.12 have no such number.
NS_GET_MNTNS_ID = 0x8008B705


def missing() -> str | None:
    """Return why this machine cannot do it, None when it can."""
    if os.geteuid() != 0:
        return "needs root"
    wanted = ("debootstrap", "nsenter", "setpriv", "systemd-nspawn", "taskset", "unshare")
    if lacking := [program for program in wanted if shutil.which(program) is None]:
        return f"{', '.join(lacking)} not installed (see deploy/packages-dev.txt)"
    if not all(Path("/dev", name).exists() for name in ("fuse", "net/tun")):
        return "the kernel has no /dev/fuse or no /dev/net/tun, which guests need"
    return None


class SystemdMachine:
    """Use as a context manager: what an earlier use left is cleared away, a new root is built and booted.

    `directory` is the machine's alone: it is emptied at the begin and removed at the end. `venv` is seen in it, read-only.
    """

    def __init__(self, directory: Path, *, cache: Path, venv: Path) -> None:
        self._directory = directory
        self._cache = cache
        self._venv = venv
        self._name = f"cenote-test-{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self.disk = directory / "root"

    def __enter__(self) -> SystemdMachine:
        self._clear()
        try:
            self._build()
            self.boot()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._clear()

    def _build(self) -> None:
        self._directory.mkdir(parents=True)
        builder = str(REPO / "tests" / "cloud" / "build-systemd-root")
        command = [*self._apart(), builder, str(self.disk), str(self._cache), CHECKOUT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        units = self.disk / "etc" / "systemd"
        (units / "system" / "writable-cgroups.service").write_text(WRITABLE_CGROUPS)
        wants = units / "system" / "sysinit.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / "writable-cgroups.service").symlink_to("../writable-cgroups.service")
        # PID 1 is started on one processor (`_first_processor`) and shall use all.
        (units / "system.conf.d").mkdir()
        processors = " ".join(str(number) for number in sorted(os.sched_getaffinity(0)))
        (units / "system.conf.d" / "processors.conf").write_text(f"[Manager]\nCPUAffinity={processors}\n")

    def boot(self) -> None:
        """Switch it on, and wait until systemd has nothing left to start. Every unit must have come up."""
        with (self._directory / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                [
                    *self._apart(),
                    *("taskset", "--cpu-list", str(_first_processor())),
                    # Processes of a killed systemd-nspawn would run on; those of a PID namespace end with its first.
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("systemd-nspawn", "--boot", f"--directory={self.disk}", f"--machine={self._name}"),
                    *("--register=no", "--keep-unit", "--settings=no", "--private-network", "--capability=all"),
                    *("--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=passive"),
                    *("--bind=/dev/net/tun", "--bind=/dev/fuse", f"--bind-ro={self._venv}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + BOOT_SECONDS
        while (state := self._system_state(deadline)) == "":
            assert self._nspawn.poll() is None, self._console()
            assert time.monotonic() < deadline, f"systemd does not answer:\n{self._console()}"
            time.sleep(0.2)
        assert state == "running", f"{state}:\n{self.root('systemctl --failed --no-legend')}"

    def _apart(self) -> list[str]:
        """Return the words that run a command in the machine's control groups, and end it with the test run, kill -9 of
        that included. What should be left all the same, a later run finds in the groups."""
        join = "".join(f"echo $$ >{group}/cgroup.procs; " for group in self._make_groups())
        return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-ec", f'{join}exec "$@"', "sh"]

    def power_off(self) -> None:
        """Shut it down as an administrator would, and wait until it is off."""
        assert self._nspawn is not None
        with contextlib.suppress(subprocess.SubprocessError):
            self.root("systemctl poweroff")
        assert self._nspawn.wait(POWER_OFF_SECONDS) == 0, self._console()
        self._nspawn = None
        self._drop_groups()

    def reboot(self) -> None:
        """Shut it down and switch it on: control groups do not outlive that, as those of systemd-nspawn's own reboot do."""
        self.power_off()
        self.boot()

    def root(self, command: str, *, timeout: float = 120) -> str:
        """Run as root in the machine and return what it prints. Raises CalledProcessError when it fails.

        It runs in a unit of its own, as a session does: what it leaves running in there ends with it.
        """
        words = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--setenv=HOME=/root", "sh", "-c", command]
        done = subprocess.run(
            [*self._enter(), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            print(f"{command}\n{done.stdout}\n{done.stderr}", file=sys.stderr)
            done.check_returncode()
        return done.stdout.strip()

    def _enter(self) -> list[str]:
        """Return the words that run a command in the machine, on its side of every namespace."""
        leader = self._leader()
        assert leader is not None, "the machine is off"
        environment = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")
        return ["nsenter", f"--target={leader}", "--all", "--", *environment]

    def _leader(self) -> int | None:
        """Return the machine's PID 1, by this machine's number; None while it has none."""
        if self._nspawn is None:
            return None
        with contextlib.suppress(OSError, IndexError):
            pid = self._nspawn.pid
            for _ in range(2):  # unshare's child is systemd-nspawn, and its child is what is looked for
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            # Before it has become systemd, it is not in its namespaces either.
            return pid if Path(f"/proc/{pid}/comm").read_text() == "systemd\n" else None
        return None

    def _system_state(self, deadline: float) -> str:
        """Return what systemd says of itself once it has nothing left to start; "" when it does not answer yet."""
        if self._leader() is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [*self._enter(), "systemctl", "is-system-running", "--wait"],
                capture_output=True,
                text=True,
                timeout=max(1.0, deadline - time.monotonic()),
                check=False,
            )
            return done.stdout.strip().removeprefix("offline")
        return ""

    def _console(self) -> str:
        return (self._directory / "console.log").read_text(errors="replace")[-3000:]

    def _clear(self) -> None:
        """End the machine, whether this or an earlier run started it, and remove all that it left."""
        self._kill()
        if self._nspawn is not None:
            self._nspawn.wait(30)
            self._nspawn = None
        self._drop_groups()
        propagate = Path("/run/systemd/nspawn/propagate") / self._name
        if propagate.is_dir():
            propagate.rmdir()
        if self._directory.exists():
            # Never into what is mounted somewhere below.
            subprocess.run(["rm", "-rf", "--one-file-system", self._directory], check=True)

    def _groups(self) -> list[Path]:
        """Return the machine's control groups: one in each tree of version 1, or the one of version 2."""
        if (CGROUPS / "cgroup.procs").exists():
            return [CGROUPS / self._name]
        return [tree / self._name for tree in sorted(CGROUPS.iterdir()) if (tree / "cgroup.procs").exists()]

    def _make_groups(self) -> list[Path]:
        groups = self._groups()
        for group in groups:
            group.mkdir(exist_ok=True)
            if group.parent.name == "cpuset":
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (group / file).write_text((group.parent / file).read_text())
        return groups

    def _kill(self) -> None:
        deadline = time.monotonic() + 30
        while pids := {pid for group in self._groups() for pid in _processes(group)}:
            assert time.monotonic() < deadline, f"{self._name}: processes {sorted(pids)[:8]} do not die"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def _drop_groups(self) -> None:
        deadline = time.monotonic() + 10
        while left := [group for group in self._groups() if group.exists()]:
            assert time.monotonic() < deadline, f"control groups that do not go: {left}"
            for group in left:
                for directory, _, _ in os.walk(group, topdown=False):
                    with contextlib.suppress(OSError):  # its last process is a zombie for a moment
                        Path(directory).rmdir()
            time.sleep(0.05)


def _processes(group: Path) -> set[int]:
    """Return the processes of a control group and of all below it."""
    found: set[int] = set()
    for directory, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            found |= {int(word) for word in Path(directory, "cgroup.procs").read_text().split()}
    return found


def _first_processor() -> int:
    """Return the processor that gives new mount namespaces the lowest numbers.

    A file can hold a mount namespace only where its number is higher than that of the namespace the file is in; newer
    kernels give numbers in blocks, a processor at a time. A machine's first namespace has the lowest of all; a
    container's has to be made where no later one gets a lower one.
    """
    probe = "from tests.cloud.nspawn import mount_namespace_number as number; print(number())"
    numbers = {}
    for processor in sorted(os.sched_getaffinity(0)):
        command = ["taskset", "--cpu-list", str(processor), "unshare", "--mount", sys.executable, "-c", probe]
        said = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
        numbers[processor] = int(said)
    return min(numbers, key=lambda processor: numbers[processor])


def mount_namespace_number() -> int:
    """Return the kernel's number of this process' mount namespace, 0 where it does not tell."""
    with open("/proc/self/ns/mnt", "rb") as namespace:
        number = bytearray(8)
        try:
            fcntl.ioctl(namespace, NS_GET_MNTNS_ID, number)
        except OSError:
            return 0
        return int(struct.unpack("Q", number)[0])
