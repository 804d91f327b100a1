"""qcow2 headers, read by ourselves before any program of QEMU's sees the file, and the overlays made on such files.

A header can name other files of the host (a backing file, an external data file): an image that does would show a
tenant the host's own data. Only whole, self-contained images pass.
"""

from __future__ import annotations

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
    command = ["prlimit", f"--as={QEMU_IMG_ADDRESS_SPACE}", "qemu-img", "create", "-q", "-f", "qcow2"]
    command += ["-F", format, "-b", str(base), str(target), f"{size_gib}G"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QEMU_IMG_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RetryLater("disk_create_failed", f"qemu-img took more than {QEMU_IMG_SECONDS:.0f} s")
    if done.returncode:
        code = "storage_full" if "No space left" in done.stderr or "quota" in done.stderr else "disk_create_failed"
        raise RetryLater(code, done.stderr.strip()[-500:])
