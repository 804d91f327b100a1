"""Resource partitions: the tenant tree as control groups, so that tenants weigh against each other and not guests.

    machine / <host's base> / <tenant> / <child tenant> / ... / own / <what libvirt makes for one guest>

A tenant's group holds the groups of its children, and `own` with its own guests, which weigh as much as one child of
normal shares: a tenant gets no more by starting more guests. VMs (with QEMU's emulator and I/O threads) and containers
lie in the same tree. libvirt puts a guest where its definition says (`<resource><partition>`) and, without systemd,
wants the groups to be there; with systemd, machined makes them as slices and removes them, and here they are weighed only.

Weights are files that anybody may overwrite, and groups do not outlive a boot: `weigh` is called with the whole truth
at each heartbeat, writes what differs, and keeps it in a file for what is started before the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from compute.node.drivers.libvirt.cgroups import Cgroups
from compute.wire import NORMAL_SHARES, PartitionReport, TenantShares, partition_name

OWN: Final = "own"
SYSTEMD: Final = Path("/run/systemd/system")
# The file of a group, the value that stands for normal shares, and the range that the kernel takes.
# https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-design-CFS.html,
# https://docs.kernel.org/block/bfq-iosched.html
_CPU: Final = (("cpu.weight", 100, 1, 10_000), ("cpu.shares", 1024, 2, 262_144))
_IO: Final = (
    ("io.weight", 100, 1, 10_000),
    ("io.bfq.weight", 100, 1, 1000),
    ("blkio.bfq.weight", 100, 1, 1000),
    ("blkio.weight", 500, 10, 1000),
)
_V2_CONTROLLERS: Final = ("cpu", "cpuset", "io", "memory", "pids")
_NOT_OURS: Final = frozenset({"systemd", "unified"})

_Path = tuple[str, ...]  # names below the base, "own" included
_Weights = tuple[int, int]  # shares of CPU, of I/O
_NORMAL: Final[_Weights] = (NORMAL_SHARES, NORMAL_SHARES)


class Partitions:
    """The partitions of one host. Safe for many threads; one process at a time keeps them."""

    def __init__(self, cgroups: Cgroups, *, base: str, file: Path, systemd: bool | None = None) -> None:
        self._cgroups = cgroups
        self._base = base
        self._file = file
        self._slices = SYSTEMD.is_dir() if systemd is None else systemd
        self._lock = threading.RLock()
        self._held: Counter[_Path] = Counter()
        self._expected: dict[_Path, float] = {}  # partition -> until when, by the monotonic clock
        self._shares = _load(file)
        self._waits: dict[str, int] = {}  # thread id -> its wait in ns when last seen
        self._waited: Counter[_Path] = Counter()

    @contextlib.contextmanager
    def hold(self, tenants: _Path) -> Iterator[str | None]:
        """Yield what libvirt calls the partition for guests of the last of `tenants`, None where there is none.

        It exists with its weights, in every controller, and is not taken away before the context ends.
        """
        if not self._cgroups.version or not tenants:
            yield None
            return
        path = (*(partition_name(tenant) for tenant in tenants), OWN)
        with self._lock:
            self._held[path] += 1
            if not self._slices:
                self._make(path)
        try:
            yield "/".join(("/machine", self._base, *path))
        finally:
            with self._lock:
                self._held[path] -= 1
                if self._slices:
                    self._apply_down(path)  # machined has made them by now, or never will

    def expect(self, tenants: _Path, seconds: float) -> str | None:
        """As `hold`, for a guest that comes by itself: the partition stays for so long without one."""
        with self.hold(tenants) as partition, self._lock:
            if partition is not None:
                path = (*(partition_name(tenant) for tenant in tenants), OWN)
                self._expected[path] = time.monotonic() + seconds
        return partition

    def weigh(self, shares: Iterable[TenantShares]) -> None:
        """Ensure weights and take away empty groups. See Driver.weigh."""
        wanted = {partition_name(item.tenant_id): (item.cpu, item.io) for item in shares}
        with self._lock:
            if wanted != self._shares:
                self._shares = wanted
                _save(self._file, wanted)
            paths = list(self._walk())
            for path in paths:
                self._apply(path)
            if not self._slices:
                for path in (*reversed(paths), ()):
                    self._unmake(path)

    def report(self) -> tuple[PartitionReport, ...]:
        """Return all tenants' partitions, parents before children."""
        with self._lock:
            paths = list(self._walk())
            self._count_waits(paths)
            reports = []
            for path in paths:
                at = time.monotonic()
                used = self._cpu_seconds(path)
                if path[-1] != OWN and used is not None:
                    waited = sum(ns for below, ns in self._waited.items() if below[: len(path)] == path) / 1e9
                    reports.append(PartitionReport(path, self._cpu_shares(path), used, round(waited, 3), at))
            return tuple(reports)

    # -- where groups are

    def _tops(self) -> list[Path]:
        """Return the top group of each hierarchy that guests are in: one under version 2."""
        root = self._cgroups.root
        if self._cgroups.version == 2:
            return [root]
        # Where two controllers share a hierarchy, all names but one are links.
        tops = (top for top in root.iterdir() if not top.is_symlink() and top.name not in _NOT_OURS)
        return sorted(top for top in tops if (top / "cgroup.procs").is_file())

    def _top_of(self, controller: str) -> Path:
        root = self._cgroups.root
        return root if self._cgroups.version == 2 else root / controller

    def _below(self, path: _Path) -> Path:
        """Return a partition's group relative to the top of a hierarchy, as libvirt or systemd lays it out."""
        names = (self._base, *path)
        if self._slices:
            return Path("machine.slice", *(f"machine-{'-'.join(names[: end + 1])}.slice" for end in range(len(names))))
        return Path("machine", *(f"{name}.partition" for name in names))

    def _walk(self, path: _Path = ()) -> Iterator[_Path]:
        """Yield the partitions that exist, parents before children."""
        group = self._top_of("cpu") / self._below(path)
        prefix = f"machine-{'-'.join((self._base, *path))}-" if self._slices else ""
        suffix = ".slice" if self._slices else ".partition"
        try:
            names = sorted(entry.name for entry in os.scandir(group) if entry.is_dir(follow_symlinks=False))
        except OSError:
            return  # no guest yet since the boot, or gone between two looks
        for name in names:
            if name.startswith(prefix) and name.endswith(suffix):
                child = (*path, name[len(prefix) : -len(suffix)])
                yield child
                yield from self._walk(child)

    # -- groups made, weighed and unmade

    def _make(self, path: _Path) -> None:
        for top in self._tops():
            group = top
            for part in self._below(path).parts:
                if self._cgroups.version == 2:
                    _enable(group)
                parent, group = group, group / part
                group.mkdir(exist_ok=True)
                if self._cgroups.version == 1:
                    _inherit_cpuset(parent, group)
        self._apply_down(path)

    def _apply_down(self, path: _Path) -> None:
        for length in range(1, len(path) + 1):
            self._apply(path[:length])

    def _apply(self, path: _Path) -> None:
        cpu, io = _NORMAL if path[-1] == OWN else self._shares.get(path[-1], _NORMAL)
        below = self._below(path)
        for controller, files, shares in (("cpu", _CPU, cpu), ("blkio", _IO, io)):
            for name, normal, least, most in files:
                file = self._top_of(controller) / below / name
                value = str(min(max(round(shares * normal / NORMAL_SHARES), least), most))
                # A group may go between look and write, and a kernel without the disk scheduler refuses its weight.
                with contextlib.suppress(OSError):
                    if file.is_file() and _value(file) != value:
                        file.write_text(value)

    def _unmake(self, path: _Path) -> None:
        now = time.monotonic()
        self._expected = {held: until for held, until in self._expected.items() if until > now}
        held = (*(held for held, count in self._held.items() if count), *self._expected)
        if any(one[: len(path)] == path for one in held):
            return
        for top in self._tops():
            try:
                (top / self._below(path)).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return  # a guest is in it, and so it is in the other hierarchies
        self._waited.pop(path, None)

    # -- what is seen

    def _cpu_shares(self, path: _Path) -> int:
        for name, normal, _, _ in _CPU:
            with contextlib.suppress(OSError, ValueError):
                return round(int(_value(self._top_of("cpu") / self._below(path) / name)) * NORMAL_SHARES / normal)
        return NORMAL_SHARES

    def _cpu_seconds(self, path: _Path) -> float | None:
        below = self._below(path)
        try:
            if self._cgroups.version == 2:
                stat = dict(line.split(" ", 1) for line in (self._cgroups.root / below / "cpu.stat").open())
                return int(stat["usage_usec"]) / 1e6
            return int((self._top_of("cpuacct") / below / "cpuacct.usage").read_text()) / 1e9
        except OSError:
            return None

    def _count_waits(self, paths: list[_Path]) -> None:
        """Add up how long threads waited for a CPU: the second number of /proc/TID/schedstat, in ns.

        https://docs.kernel.org/scheduler/sched-stats.html. A thread that ended since the last look takes its last
        seconds with it. Kernels without the file count nothing.
        """
        seen: dict[str, int] = {}
        tasks = "cgroup.threads" if self._cgroups.version == 2 else "tasks"
        for path in (path for path in paths if path[-1] == OWN):
            for directory, _, files in os.walk(self._top_of("cpu") / self._below(path)):
                if tasks not in files:
                    continue
                for thread in _lines(Path(directory, tasks)):
                    with contextlib.suppress(OSError, ValueError, IndexError):
                        seen[thread] = int(Path("/proc", thread, "schedstat").read_text().split()[1])
                        self._waited[path] += max(0, seen[thread] - self._waits.get(thread, seen[thread]))
        self._waits = seen


def _enable(group: Path) -> None:
    """Have the controllers work for the group's children. Each by itself: one that is not there spoils none other."""
    control = group / "cgroup.subtree_control"
    enabled = control.read_text().split()
    available = (group / "cgroup.controllers").read_text().split()
    for controller in _V2_CONTROLLERS:
        if controller in available and controller not in enabled:
            with contextlib.suppress(OSError):
                control.write_text(f"+{controller}")


def _inherit_cpuset(parent: Path, group: Path) -> None:
    """Fill in what version 1 leaves empty. A group without CPUs and memory nodes takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).is_file() and not (group / name).read_text().strip():
            (group / name).write_text((parent / name).read_text())


def _value(file: Path) -> str:
    """Return a weight file's number; some say "default 100"."""
    return file.read_text().split("\n", 1)[0].removeprefix("default").strip()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _load(file: Path) -> dict[str, _Weights]:
    try:
        return {str(name): (int(cpu), int(io)) for name, (cpu, io) in json.loads(file.read_text("utf-8")).items()}
    except (FileNotFoundError, ValueError):
        return {}


def _save(file: Path, shares: dict[str, _Weights]) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(shares), "utf-8")
    part.replace(file)
