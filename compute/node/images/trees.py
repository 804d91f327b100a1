"""Directory trees whose content is not trusted, walked from an open directory and never through a link.

A root archive or a tenant's container may hold a link where a directory is expected; following it would let the
node, which is root, write to the host.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafePath(Exception):
    """A path leaves the tree, or meets a link or a file where a directory must be."""


def split_path(name: str) -> tuple[str, ...]:
    """Return the parts of a relative path, `()` for the top. Raises UnsafePath for `..` and NUL."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise UnsafePath(f"{name!r} leaves the tree")
    return parts


def open_directory(top: int, parts: Sequence[str], *, create_as: tuple[int, int] | None = None) -> int:
    """Return a new descriptor of the directory below `top`; with `create_as` (uid, gid), make what is missing, 0755.

    Raises UnsafePath.
    """
    current = os.dup(top)
    try:
        for part in parts:
            if create_as is not None:
                try:
                    os.mkdir(part, 0o755, dir_fd=current)
                    os.chown(part, *create_as, dir_fd=current, follow_symlinks=False)
                except FileExistsError:
                    pass
            try:
                following = os.open(part, _DIRECTORY, dir_fd=current)
            except OSError as error:
                raise UnsafePath(f"{'/'.join(parts)}: {part}: {error.strerror}")
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def remove_name(directory: int, name: str) -> None:
    """Take a file or link away from an open directory; an absent one is no error. Raises UnsafePath for a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        raise UnsafePath(f"{name} is a directory")


@contextlib.contextmanager
def create_file(directory: int, name: str, *, owner: tuple[int, int], mode: int) -> Iterator[BinaryIO]:
    """Make a new file in an open directory; its owner and mode are set when the content is there.

    The mode comes after the owner, since a change of owner takes the set-user-id bit away.
    """
    descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, stat.S_IMODE(mode))


def write_file(directory: int, name: str, content: bytes, *, owner: tuple[int, int], mode: int) -> None:
    """Put a file into an open directory in place of whatever file or link has the name. Raises UnsafePath."""
    remove_name(directory, name)
    with create_file(directory, name, owner=owner, mode=mode) as file:
        file.write(content)
