"""Images in the pool's storage, as one host sees them: present, whole, and checked once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path

from compute.node.drivers.base import Never
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import ImagePaths, image_paths
from compute.node.images.qcow2 import GIB, Header, read_header
from compute.wire import ImageRef

_CHUNK = 4 << 20


class ImageStore:
    """Hands out image files that have the checksum they should have.

    A file is hashed once for each host and identity (device, inode, size, time of writing): hashing at every create
    would cost more than all the rest of it. The answers are kept in `local_dir`/images.json over restarts.
    """

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings
        self._file = settings.local_dir / "images.json"
        self._lock = threading.Lock()
        self._hashing: dict[str, threading.Lock] = {}
        self._known: dict[str, list[str]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._known = json.loads(self._file.read_text("utf-8"))

    def ensure_usable(self, image: ImageRef) -> ImagePaths:
        """Return the image's files after checking that they are there and whole.

        Raises Never("image_missing" | "image_corrupt" | "id_invalid").
        """
        paths = image_paths(self._settings, image)
        if image.boot == "kernel":
            for path in (paths.kernel, paths.initrd):
                if not path.is_file():
                    raise Never("image_missing", f"no {path} beside the image")
        identity = _identity(paths.disk)
        with self._lock:
            if self._known.get(str(paths.disk)) == [identity, image.sha256]:
                return paths
            hashing = self._hashing.setdefault(image.id, threading.Lock())
        # One thread hashes, the others wait for its answer: fifty creates of a new image must not read it fifty times.
        with hashing:
            if self._known.get(str(paths.disk)) == [identity, image.sha256]:
                return paths
            self._check(paths.disk, image)
            if _identity(paths.disk) != identity:
                raise Never("image_corrupt", f"{paths.disk} changed while it was read")
            self._remember(paths.disk, identity, image.sha256)
        return paths

    def checked(self) -> tuple[str, ...]:
        """Return the ids of images that need no checking here any more: checked before, and still as they were."""
        with self._lock:
            known = dict(self._known)
        found = []
        for path, (identity, _) in known.items():
            with contextlib.suppress(Never):
                if _identity(Path(path)) == identity:
                    found.append(Path(path).stem)
        return tuple(sorted(found))

    def header(self, image: ImageRef, paths: ImagePaths, *, size_gib: int) -> Header:
        """Return the image's header. Raises Never("disk_too_small") when a disk of `size_gib` cannot hold it."""
        if image.format == "rootfs-tar":
            raise Never("image_corrupt", "a root archive has no disk header")
        header = read_header(paths.disk, image.format)
        if header.virtual_size > size_gib * GIB:
            raise Never("disk_too_small", f"{size_gib} GiB cannot hold an image of {header.virtual_size} bytes")
        return header

    def _check(self, path: Path, image: ImageRef) -> None:
        if image.format != "rootfs-tar":
            read_header(path, image.format)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != image.sha256:
            raise Never("image_corrupt", f"{path} has sha256 {digest.hexdigest()}, not {image.sha256}")

    def _remember(self, path: Path, identity: str, sha256: str) -> None:
        with self._lock:
            self._known[str(path)] = [identity, sha256]
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            part = self._file.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(self._known), "utf-8")
            part.replace(self._file)


def _identity(path: Path) -> str:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise Never("image_missing", f"no image file {path}")
    # Not the time of the inode's change: libvirt changes an image's owner at each start where QEMU is not root.
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
