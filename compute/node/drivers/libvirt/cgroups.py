"""What the kernel's control groups can do here, and the limits that libvirt's LXC driver does not set.

Both hierarchies are known: version 1 with a mount for each controller, and the unified version 2. Where both are
mounted, the controllers sit in version 1 (a "hybrid" machine), so that counts as version 1.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Feature = Literal["cpu_shares", "cpu_quota", "memory", "memory_swap", "io_weight", "pids"]
FEATURES: Final[tuple[Feature, ...]] = ("cpu_shares", "cpu_quota", "memory", "memory_swap", "io_weight", "pids")
ROOT: Final = Path("/sys/fs/cgroup")
LIMIT_SECONDS: Final = 5.0
REMOVE_SECONDS: Final = 2.0
# What one share of version 1 is worth in version 2, and the range of weights there.
# https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
NORMAL_SHARES: Final = 1024
NORMAL_WEIGHT: Final = 100
WEIGHT_LIMITS: Final = (1, 10_000)

_V1_FILES: Final[dict[Feature, tuple[str, ...]]] = {
    "cpu_shares": ("cpu/{}/cpu.shares", "cpu,cpuacct/{}/cpu.shares"),
    "cpu_quota": ("cpu/{}/cpu.cfs_quota_us", "cpu,cpuacct/{}/cpu.cfs_quota_us"),
    "memory": ("memory/{}/memory.limit_in_bytes",),
    "memory_swap": ("memory/{}/memory.memsw.limit_in_bytes",),
    "io_weight": ("blkio/{}/blkio.weight", "blkio/{}/blkio.bfq.weight"),
    "pids": ("pids/{}/pids.max",),
}
_V2_CONTROLLERS: Final[dict[Feature, str]] = {
    "cpu_shares": "cpu",
    "cpu_quota": "cpu",
    "memory": "memory",
    "io_weight": "io",
    "pids": "pids",
}
_PROBE: Final = "cenote-probe"


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The control groups of this host: version (0 when there are none), what they can limit, and the name of those that
    are the host's own: lab hosts see one tree."""

    version: int
    features: frozenset[Feature]
    root: Path = ROOT
    base: str = "cenote"

    @property
    def missing(self) -> tuple[Feature, ...]:
        """What instances ask for and this kernel cannot give, in a fixed order."""
        wanted = (feature for feature in FEATURES if feature != "memory_swap")
        return tuple(feature for feature in wanted if feature not in self.features)

    def cpu_shares(self, shares: int) -> int:
        """Return what libvirt has to be told for `shares` of version 1's scale: under version 2 it passes on a weight."""
        if self.version != 2:
            return shares
        least, most = WEIGHT_LIMITS
        return min(max(round(shares * NORMAL_WEIGHT / NORMAL_SHARES), least), most)


def detect(root: Path = ROOT, *, base: str = "cenote") -> Cgroups:
    """Look at what is mounted. Version 1 files are looked for in a group made for it: the top group lacks some."""
    if (root / "cgroup.controllers").is_file():
        controllers = (root / "cgroup.controllers").read_text().split()
        found = {feature for feature, controller in _V2_CONTROLLERS.items() if controller in controllers}
        if "io_weight" in found and not _v2_has_io_weight(root):
            found.discard("io_weight")
        return Cgroups(2, frozenset(found), root, base)
    features: set[Feature] = set()
    version = 0
    for feature, candidates in _V1_FILES.items():
        for candidate in candidates:
            controller = root / candidate.split("/", 1)[0]
            if not (controller / "cgroup.procs").is_file():
                continue
            version = 1
            probe = f"{_PROBE}-{os.getpid()}"
            with contextlib.suppress(OSError):
                (controller / probe).mkdir(exist_ok=True)
            if (root / candidate.format(probe)).is_file():
                features.add(feature)
            with contextlib.suppress(OSError):
                (controller / probe).rmdir()
    return Cgroups(version, frozenset(features), root, base)


def limit_processes(cgroups: Cgroups, *, instance_id: str, controller_pid: int, limit: int) -> bool:
    """Limit the number of processes of a running container, its controller process included. False where it cannot be.

    Processes that the container forked before it was limited are moved as well: rounds go on until all of them are in,
    which ends because those inside can make no more than `limit`. A round can find what cannot be moved: a process that
    is over and not yet reaped. So there is a moment between rounds, and False only after LIMIT_SECONDS.
    """
    if "pids" not in cgroups.features or controller_pid <= 0:
        return False
    if cgroups.version == 2:
        return _limit_v2(cgroups, controller_pid, limit)
    group = _pids_group(cgroups, instance_id)
    members = _group_of(cgroups, controller_pid, "memory") or _group_of(cgroups, controller_pid, "devices")
    if members is None:
        return False
    group.mkdir(parents=True, exist_ok=True)
    (group / "pids.max").write_text(str(limit))
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        inside = set((group / "cgroup.procs").read_text().split())
        outside = [pid for pid in _procs_below(members) if pid not in inside]
        if not outside:
            return True
        for pid in outside:
            with contextlib.suppress(OSError):  # ended meanwhile
                (group / "cgroup.procs").write_text(pid)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def forbid_swap(cgroups: Cgroups, controller_pid: int) -> None:
    """Keep a running container out of swap under version 2, where libvirt's limits leave that open."""
    group = _group_of(cgroups, controller_pid, "") if cgroups.version == 2 else None
    # The file is there only where memory is limited and the kernel knows swap; a group may also have gone meanwhile.
    if group is not None and (group / "memory.swap.max").is_file():
        with contextlib.suppress(OSError):  # ENOENT before it is opened, ENODEV after
            (group / "memory.swap.max").write_text("0")


def forget_processes(cgroups: Cgroups, instance_id: str) -> None:
    """Take away the group that `limit_processes` made under version 1. Its processes must be over."""
    if cgroups.version != 1:
        return
    group = _pids_group(cgroups, instance_id)
    deadline = time.monotonic() + REMOVE_SECONDS
    while group.is_dir():
        try:
            group.rmdir()
        except OSError:
            # The last zombies are reaped a moment after libvirt says that the container is off.
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


def _pids_group(cgroups: Cgroups, instance_id: str) -> Path:
    # Beside the partitions of the host's tenants, so that it goes with them when the host does.
    return cgroups.root / "pids" / "machine" / f"{cgroups.base}.partition" / instance_id


def _limit_v2(cgroups: Cgroups, pid: int, limit: int) -> bool:
    group = _group_of(cgroups, pid, "")
    if group is None or group == cgroups.root:
        return False
    # The innermost group, where the guest's processes are: the one around it is a scope of systemd's, which sets the
    # scope's own limits again whenever it reads its units anew.
    ancestors = [above for above in reversed(group.parents) if above.is_relative_to(cgroups.root)]
    for above in ancestors:
        control = above / "cgroup.subtree_control"
        if "pids" not in control.read_text().split():
            with contextlib.suppress(OSError):
                control.write_text("+pids")
    try:
        (group / "pids.max").write_text(str(limit))
    except OSError:
        return False
    return True


def _group_of(cgroups: Cgroups, pid: int, controller: str) -> Path | None:
    """Return a process' group in a version 1 controller, or for "" in version 2; None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            top = cgroups.root / controller if controller else cgroups.root
            return top / path.lstrip("/")
    return None


def _procs_below(group: Path) -> list[str]:
    found: list[str] = []
    for directory, _, files in os.walk(group):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                found += (Path(directory) / "cgroup.procs").read_text().split()
    return found


def _v2_has_io_weight(root: Path) -> bool:
    # The first belongs to the cost model, whose weights each group has once systemd or libvirt turns the controller on;
    # the others are those of a disk scheduler, seen where it is on already.
    return (root / "io.cost.qos").is_file() or any(
        (child / "io.weight").is_file() or (child / "io.bfq.weight").is_file() for child in root.iterdir()
    )
