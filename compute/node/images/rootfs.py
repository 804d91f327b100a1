"""Root trees of containers: a root archive is unpacked once for each image, safely, and copied for each container."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

from compute.node.drivers.base import Never, RetryLater
from compute.node.drivers.settings import DriverSettings
from compute.node.images.seed import seed_files
from compute.node.images.trees import UnsafePath, create_file, open_directory, remove_name, split_path, write_file
from compute.wire import InstanceSpec

COPY_SECONDS = 240.0
SEED_PARTS = ("var", "lib", "cloud", "seed", "nocloud")
MAX_UNPACKED_BYTES = 64 << 30
MAX_MEMBERS = 2_000_000


def ensure_tree(archive: Path, tree: Path, settings: DriverSettings) -> None:
    """Ensure the unpacked tree of an archive, owner ids shifted into the containers' range.

    Hosts share `tree`, so the work is done under a lock file and a temporary name: the rename is what makes it exist.
    Raises Never("image_corrupt"), RetryLater("storage_full" | "image_busy").
    """
    if tree.is_dir():
        return
    lock = os.open(tree.with_name(tree.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # dies with its process, so a killed worker leaves no lock behind
        if tree.is_dir():
            return
        part = tree.with_name(tree.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o755)
        try:
            unpack(archive, part, settings)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.rename(tree)
    finally:
        os.close(lock)


def unpack(archive: Path, target: Path, settings: DriverSettings) -> None:
    """Unpack into the empty directory `target`. Raises Never("image_corrupt"), RetryLater("storage_full")."""
    top = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with tarfile.open(archive, "r:*") as tar:
            _unpack_members(tar, top, settings)
    except (tarfile.TarError, UnsafePath, EOFError) as error:
        raise Never("image_corrupt", f"{archive}: {error}")
    except OSError as error:
        raise RetryLater("storage_full", f"{archive}: {error}")
    finally:
        os.close(top)


def copy_tree(tree: Path, target: Path) -> None:
    """Copy an unpacked tree to `target`, which must not exist. Raises RetryLater("storage_full")."""
    try:
        done = subprocess.run(
            ["cp", "-a", "--reflink=auto", "--", str(tree), str(target)],
            capture_output=True,
            text=True,
            timeout=COPY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RetryLater("storage_full", f"copying {tree} took more than {COPY_SECONDS:.0f} s")
    if done.returncode:
        raise RetryLater("storage_full", done.stderr.strip()[-500:])


def plant_seed(root: Path, spec: InstanceSpec, settings: DriverSettings) -> None:
    """Write the NoCloud seed into a container's tree, readable by its root only. Raises Never("image_corrupt").

    Only for a tree in which no container has run yet: a running one could move directories under the writer's feet.
    """
    owner = (settings.idmap_base, settings.idmap_base)
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        seed = open_directory(top, SEED_PARTS, create_as=owner)
        try:
            for name, content in seed_files(spec).items():
                write_file(seed, name, content, owner=owner, mode=0o600)
        finally:
            os.close(seed)
    except UnsafePath as error:
        raise Never("image_corrupt", f"the image has no place for a seed: {error}")
    finally:
        os.close(top)


def _unpack_members(tar: tarfile.TarFile, top: int, settings: DriverSettings) -> None:
    members = total = 0
    directories: list[tuple[tuple[str, ...], tarfile.TarInfo]] = []
    for member in tar:
        members, total = members + 1, total + member.size
        if members > MAX_MEMBERS or total > MAX_UNPACKED_BYTES:
            raise UnsafePath("the archive is larger than a root tree may be")
        parts = split_path(member.name)
        owner = _owner(member, settings)
        if not parts or member.isdir():
            if not member.isdir():
                raise UnsafePath(f"{member.name!r} is not a directory")
            os.close(open_directory(top, parts, create_as=owner))
            directories.append((parts, member))
        else:
            parent = open_directory(top, parts[:-1], create_as=(settings.idmap_base, settings.idmap_base))
            try:
                _unpack_one(tar, member, top, parent, parts, owner)
            finally:
                os.close(parent)
    # Last and from the deepest up: a directory's own mode may forbid what is still to be put into it.
    for parts, member in sorted(directories, key=lambda item: len(item[0]), reverse=True):
        directory = open_directory(top, parts)
        try:
            os.fchown(directory, *_owner(member, settings))
            os.fchmod(directory, stat.S_IMODE(member.mode))
        finally:
            os.close(directory)


def _unpack_one(
    tar: tarfile.TarFile, member: tarfile.TarInfo, top: int, parent: int, parts: tuple[str, ...], owner: tuple[int, int]
) -> None:
    name = parts[-1]
    remove_name(parent, name)  # a later member replaces an earlier one of the same name
    if member.isreg():
        source = tar.extractfile(member)
        assert source is not None  # a regular member always has content
        with source, create_file(parent, name, owner=owner, mode=member.mode) as file:
            shutil.copyfileobj(source, file, 1 << 20)
    elif member.issym():
        # Where it points does not matter: nothing here follows links, and inside the container it is the container's.
        os.symlink(member.linkname, name, dir_fd=parent)
        os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
    elif member.islnk():
        target = split_path(member.linkname)
        if not target:
            raise UnsafePath(f"{member.name!r} links to the top")
        directory = open_directory(top, target[:-1])
        try:
            found = os.stat(target[-1], dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise UnsafePath(f"{member.name!r} links to what is no file")
            os.link(target[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise UnsafePath(f"{member.name!r} links to {member.linkname!r}, which is not there")
        finally:
            os.close(directory)
    elif parts[0] == "dev":
        pass  # a container gets its /dev from the hypervisor; archives made from a running system carry nodes there
    else:
        raise UnsafePath(f"{member.name!r} is a device, a pipe or of unknown type")


def _owner(member: tarfile.TarInfo, settings: DriverSettings) -> tuple[int, int]:
    """Return the shifted owner. Raises UnsafePath for an id that the container's range cannot hold."""
    if not (0 <= member.uid < settings.idmap_count and 0 <= member.gid < settings.idmap_count):
        raise UnsafePath(f"{member.name!r} belongs to {member.uid}:{member.gid}, outside the containers' range")
    return settings.idmap_base + member.uid, settings.idmap_base + member.gid
