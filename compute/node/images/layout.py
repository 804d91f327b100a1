"""Where things lie in storage. Every path is built from ids that were checked to be UUIDs, and from nothing else."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from compute.node.drivers.base import Never
from compute.node.drivers.settings import DriverSettings
from compute.wire import ImageRef

MARKER = ".cenote-storage"
_ENDINGS = {"qcow2": "qcow2", "raw": "raw", "rootfs-tar": "tar"}


def check_id(value: str) -> str:
    """Return `value` if it is a UUID in its usual spelling. Raises Never("id_invalid"): it will be in a path."""
    try:
        if str(uuid.UUID(value)) == value:
            return value
    except ValueError:
        pass
    raise Never("id_invalid", f"{value!r} is not a UUID")


def read_marker(shared_dir: Path) -> str:
    """Return the id of the storage that is mounted at `shared_dir`; "" when there is none or it is unreadable."""
    try:
        return (shared_dir / MARKER).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


@dataclass(frozen=True, slots=True)
class ImagePaths:
    """The files of one image in shared storage."""

    disk: Path
    kernel: Path
    initrd: Path
    tree: Path  # of a root archive: the unpacked tree, owner ids shifted, from which containers are copied


def image_paths(settings: DriverSettings, image: ImageRef) -> ImagePaths:
    """Return where this image's files are. Raises Never("id_invalid")."""
    directory = settings.shared_dir / "images"
    name = check_id(image.id)
    return ImagePaths(
        disk=directory / f"{name}.{_ENDINGS[image.format]}",
        kernel=directory / f"{name}.kernel",
        initrd=directory / f"{name}.initrd",
        tree=directory / f".tree-{name}-{settings.idmap_base}",
    )


@dataclass(frozen=True, slots=True)
class InstancePaths:
    """The files of one instance: `shared` travels with it to other hosts, `local` stays."""

    shared: Path
    local: Path

    @property
    def disk(self) -> Path:
        return self.shared / "disk.qcow2"

    @property
    def seed(self) -> Path:
        return self.shared / "seed.iso"

    @property
    def rootfs(self) -> Path:
        return self.shared / "rootfs"

    @property
    def ports(self) -> Path:
        """Device names of the instance's ports, so that `remove` finds them by the id alone."""
        return self.local / "ports.json"

    @property
    def console(self) -> Path:
        return self.local / "console.log"


def instance_paths(settings: DriverSettings, instance_id: str) -> InstancePaths:
    """Return where this instance's files are. Raises Never("id_invalid")."""
    name = check_id(instance_id)
    return InstancePaths(settings.shared_dir / "instances" / name, settings.local_dir / "instances" / name)


def trash_path(directory: Path) -> Path:
    """Return the name under which an instance's directory waits for its removal."""
    return directory.with_name(f".removing-{directory.name}")


def list_instance_ids(settings: DriverSettings) -> tuple[str, ...]:
    """Return the ids that have a directory in shared storage, half-made and half-removed ones too, in order."""
    try:
        names = os.listdir(settings.shared_dir / "instances")
    except FileNotFoundError:
        return ()
    found = set()
    for name in names:
        try:
            found.add(check_id(name.removeprefix(".removing-")))
        except Never:
            continue
    return tuple(sorted(found))
