"""qcow2 headers, read by ourselves before any program of QEMU's sees the file, and the overlays made on such files.

A header can name other files of the host (a backing file, an external data file): an image that does would show a
tenant the host's own data. Only whole, self-contained images pass.
"""

from __future__ import annotations

import json
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compute.node.drivers.base import Never, RetryLater

GIB = 1 << 30
QEMU_IMG_SECONDS = 30.0
QEMU_IMG_ADDRESS_SPACE = 1 << 30  # bytes; a crafted header must not eat the host's memory
_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")  # up to and including header_length of version 3
_DIRTY_OR_LAZY = 0b1  # the one incompatible feature bit an image may have: dirty, which QEMU mends by itself
_COMPRESSION_TYPE = 0b1000  # zstd clusters: harmless


@dataclass(frozen=True, slots=True)
class Header:
    """What an overlay needs to know of its base."""

    virtual_size: int  # bytes


def read_header(path: Path, format: Literal["qcow2", "raw"]) -> Header:
    """Return the header of a self-contained image. The format is the caller's word, never guessed from the bytes.

    Raises Never("image_missing" | "image_corrupt").
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER.size)
            size = file.seek(0, 2)
    except FileNotFoundError:
        raise Never("image_missing", f"no image file {path}")
    if format == "raw":
        return Header(size)
    if len(start) < _HEADER.size:
        raise Never("image_corrupt", f"{path}: too short for a qcow2 header")
    fields = _HEADER.unpack(start)
    magic, version, backing_offset, virtual_size = fields[0], fields[1], fields[2], fields[5]
    encryption, incompatible = fields[6], fields[13]
    if magic != _MAGIC or version not in (2, 3):
        raise Never("image_corrupt", f"{path} is not qcow2, version 2 or 3")
    if backing_offset:
        raise Never("image_corrupt", f"{path} names a backing file")
    if encryption:
        raise Never("image_corrupt", f"{path} is encrypted")
    # Bit 2 is an external data file; unknown bits may be the next such thing.
    if version == 3 and incompatible & ~(_DIRTY_OR_LAZY | _COMPRESSION_TYPE):
        raise Never("image_corrupt", f"{path} needs features that are not allowed ({incompatible:#x})")
    return Header(virtual_size)


def create_overlay(base: Path, format: Literal["qcow2", "raw"], target: Path, *, size_gib: int) -> None:
    """Make `target`, a copy-on-write clone of `base`. Both formats are explicit, so that nothing is ever probed.

    `target` must not exist under this name for anybody else: a caller makes it under a temporary name and renames.
    Raises RetryLater("storage_full" | "disk_create_failed").
    """
    _qemu_img(
        *("create", "-q", "-f", "qcow2", "-F", format, "-b", str(base), str(target), f"{size_gib}G"),
        failure="disk_create_failed",
    )


def resize_overlay(path: Path, *, size_gib: int) -> None:
    """Ensure that an overlay nobody has open is `size_gib` large.

    It is cut back only where nothing was ever written beyond the new size; else it stays as it is.
    Raises Never("image_corrupt"), RetryLater("storage_full" | "disk_resize_failed").
    """
    size, wanted = _virtual_size(path), size_gib * GIB
    if size == wanted or (size > wanted and _written_beyond(path, wanted)):
        return
    shrink = ("--shrink",) if size > wanted else ()
    _qemu_img("resize", "-q", "-f", "qcow2", *shrink, str(path), f"{size_gib}G", failure="disk_resize_failed")


def _virtual_size(path: Path) -> int:
    """Return how large the guest sees an overlay of ours, in bytes."""
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
    if len(start) < _HEADER.size or not start.startswith(_MAGIC):
        raise Never("image_corrupt", f"{path} is not qcow2")
    size: int = _HEADER.unpack(start)[5]
    return size


def _written_beyond(path: Path, offset: int) -> bool:
    listing = _qemu_img(
        *("map", "-f", "qcow2", "--output=json", f"--start-offset={offset}", str(path)), failure="disk_resize_failed"
    )
    return any(extent["data"] for extent in json.loads(listing))


def _qemu_img(*arguments: str, failure: str) -> str:
    """Run qemu-img within limits and return what it prints. Raises RetryLater("storage_full" | `failure`)."""
    command = ["prlimit", f"--as={QEMU_IMG_ADDRESS_SPACE}", "qemu-img", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QEMU_IMG_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RetryLater(failure, f"qemu-img took more than {QEMU_IMG_SECONDS:.0f} s")
    if done.returncode:
        full = "No space left" in done.stderr or "quota" in done.stderr
        raise RetryLater("storage_full" if full else failure, done.stderr.strip()[-500:])
    return done.stdout
