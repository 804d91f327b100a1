"""Archives in the kernel's initramfs format ("newc"), just enough to add files to an initrd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO, Final

_MAGIC: Final = "070701"
_REGULAR: Final = 0o100000


def write_archive(file: BinaryIO, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Append an archive with these files (name -> content, mode) to `file`, aligned as the kernel wants it."""
    _pad(file)
    for number, (name, (content, mode)) in enumerate(files.items(), start=1):
        _write_entry(file, name, content, _REGULAR | mode, inode=number)
    _write_entry(file, "TRAILER!!!", b"", 0, inode=0)


def _write_entry(file: BinaryIO, name: str, content: bytes, mode: int, *, inode: int) -> None:
    encoded = name.encode() + b"\0"
    links, device = 1, 0
    fields = (inode, mode, 0, 0, links, 0, len(content), device, device, device, device, len(encoded), 0)
    file.write((_MAGIC + "".join(f"{field:08X}" for field in fields)).encode())
    file.write(encoded)
    _pad(file)
    file.write(content)
    _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % 4))
