"""Control groups of a lab host. A machine's go when it boots; a lab host's are in the one tree of the machine below."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def drop_groups(base: str, root: Path = ROOT, *, seconds: float = 2.0) -> None:
    """Remove a host's partitions (see DriverSettings.partition) and what dead guests left in them. Nothing may run there.

    Tried for so many seconds: the last zombies of guests that were killed are reaped a moment later.
    """
    name = Path("machine", f"{base}.partition")
    trees = (root / name, *(top / name for top in root.iterdir()))
    deadline = time.monotonic() + seconds
    while any(tree.exists() for tree in trees):
        for tree in trees:
            for directory, _, _ in os.walk(tree, topdown=False):
                with contextlib.suppress(OSError):  # somebody else's process: not ours to end
                    Path(directory).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
