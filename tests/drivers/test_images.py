"""Image files and root archives whose authors wish the host ill, and honest ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import struct
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compute.node.drivers.base import Never
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import image_paths, list_instance_ids
from compute.node.images.qcow2 import create_overlay, read_header, resize_overlay
from compute.node.images.rootfs import copy_tree, ensure_tree, plant_seed, unpack
from compute.node.images.seed import guest_hostname, seed_files, write_seed_iso
from compute.node.images.store import ImageStore
from compute.wire import ImageRef
from tests.drivers.specs import make_spec

BASE = 100_000


@pytest.fixture
def settings(tmp_path: Path) -> DriverSettings:
    shared = tmp_path / "shared"
    (shared / "images").mkdir(parents=True)
    return DriverSettings(vcpus=2, memory_mib=2048, disk_gib=20, shared_dir=shared, local_dir=tmp_path / "local")


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def put_image(settings: DriverSettings, *, size: str = "1M") -> tuple[ImageRef, Path]:
    image_id = "0190a2b4-0000-7000-8000-c0ffee123456"
    path = settings.shared_dir / "images" / f"{image_id}.qcow2"
    qemu_img("create", "-f", "qcow2", path, size)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ImageRef(
        id=image_id, format="qcow2", sha256=digest, size_bytes=path.stat().st_size, virtual_size_gib=0
    ), path


# -- qcow2


def test_header_of_an_honest_image_gives_its_size(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", tmp_path / "a", "3M")
    assert read_header(tmp_path / "a", "qcow2").virtual_size == 3 << 20


def _virtual_size(path: Path) -> int:
    shown = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout
    size: int = json.loads(shown)["virtual-size"]
    return size


def _overlay(folder: Path) -> Path:
    qemu_img("create", "-f", "qcow2", folder / "base", "1M")
    create_overlay(folder / "base", "qcow2", folder / "disk", size_gib=1)
    return folder / "disk"


def test_overlay_grows_and_growth_is_taken_back(tmp_path: Path) -> None:
    disk = _overlay(tmp_path)
    for size_gib in (3, 3, 2, 1):
        resize_overlay(disk, size_gib=size_gib)
        assert _virtual_size(disk) == size_gib << 30


def test_overlay_is_not_cut_where_the_guest_has_written(tmp_path: Path) -> None:
    disk = _overlay(tmp_path)
    resize_overlay(disk, size_gib=3)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 2G 64k", disk], check=True, capture_output=True)
    resize_overlay(disk, size_gib=1)
    assert _virtual_size(disk) == 3 << 30
    qemu_io = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -P 7 2G 64k", disk], capture_output=True, text=True)
    assert "verification failed" not in qemu_io.stdout + qemu_io.stderr


def test_resize_of_what_is_no_overlay_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"no disk")
    with pytest.raises(Never) as caught:
        resize_overlay(tmp_path / "disk", size_gib=1)
    assert caught.value.code == "image_corrupt"


def test_images_that_name_other_files_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1 << 20))
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret, tmp_path / "backed")
    qemu_img(
        "create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", tmp_path / "external", "1M"
    )
    for name in ("backed", "external"):
        with pytest.raises(Never) as caught:
            read_header(tmp_path / name, "qcow2")
        assert caught.value.code == "image_corrupt"


@pytest.mark.parametrize(
    "content",
    [b"", b"QFI\xfb", b"# Disk DescriptorFile\n" + bytes(200), b"QFI\xfb" + struct.pack(">I", 9) + bytes(200)],
)
def test_what_is_no_qcow2_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Never):
        read_header(tmp_path / "a", "qcow2")


def test_raw_image_with_a_qcow2_header_stays_raw(tmp_path: Path) -> None:
    base = tmp_path / "base"
    qemu_img("create", "-f", "qcow2", base, "100M")
    assert read_header(base, "raw").virtual_size == base.stat().st_size
    create_overlay(base, "raw", tmp_path / "over", size_gib=1)
    told = subprocess.run(["qemu-img", "info", "-f", "qcow2", tmp_path / "over"], capture_output=True, text=True).stdout
    assert "backing file format: raw" in told
    assert "virtual size: 1 GiB" in told


# -- the store


def test_image_is_hashed_once_and_again_after_a_change(
    settings: DriverSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, path = put_image(settings)
    opened: list[str] = []
    real = hashlib.sha256

    def counted() -> object:
        opened.append("hash")
        return real()

    monkeypatch.setattr(hashlib, "sha256", counted)
    for _ in range(2):
        store = ImageStore(settings)  # the second time as after a restart
        store.ensure_usable(image)
        store.ensure_usable(image)
    assert len(opened) == 1
    os.chown(path, 64055, -1)
    store.ensure_usable(image)
    assert len(opened) == 1
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    with pytest.raises(Never) as caught:
        store.ensure_usable(image)
    assert caught.value.code == "image_corrupt"


def test_ten_creates_of_a_new_image_hash_it_once(settings: DriverSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = put_image(settings)
    checks: list[Path] = []
    real = ImageStore._check

    def counted(self: ImageStore, path: Path, wanted: ImageRef) -> None:
        checks.append(path)
        real(self, path, wanted)

    monkeypatch.setattr(ImageStore, "_check", counted)
    store = ImageStore(settings)
    threads = [threading.Thread(target=store.ensure_usable, args=(image,)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(checks) == 1


def test_missing_image_and_missing_kernel_are_named(settings: DriverSettings) -> None:
    image, path = put_image(settings)
    store = ImageStore(settings)
    booted = ImageRef(**{**image.to_json(), "boot": "kernel"})
    with pytest.raises(Never, match=r"\.kernel"):
        store.ensure_usable(booted)
    path.unlink()
    with pytest.raises(Never) as caught:
        store.ensure_usable(image)
    assert caught.value.code == "image_missing"


# -- seeds


@given(name=st.text(st.characters(), max_size=80), key=st.text(st.characters(codec="utf-8"), max_size=80))
def test_seed_says_exactly_what_the_spec_says(name: str, key: str) -> None:
    spec = make_spec(name=name, ssh_keys=(key, "second"), user_data="#cloud-config\nruncmd: [true]\n")
    files = seed_files(spec)
    meta = yaml.safe_load(files["meta-data"])
    assert meta == {"instance-id": spec.id, "local-hostname": guest_hostname(spec), "public-keys": [key, "second"]}
    assert files["user-data"] == b"#cloud-config\nruncmd: [true]\n"


@given(name=st.text(st.characters(), max_size=200))
def test_host_name_is_a_dns_label(name: str) -> None:
    label = guest_hostname(make_spec(name=name))
    assert 1 <= len(label) <= 63
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert label[0] != "-" != label[-1]


def test_seed_volume_is_private_and_readable_as_a_file_system(tmp_path: Path) -> None:
    spec = make_spec(user_data="#!/bin/sh\necho hello\n")
    write_seed_iso(spec, tmp_path / "seed.iso")
    assert stat.S_IMODE((tmp_path / "seed.iso").stat().st_mode) == 0o600
    content = (tmp_path / "seed.iso").read_bytes()
    assert content[32808:32814].lower() == b"cidata"
    assert b"echo hello" in content
    assert spec.id.encode() in content


# -- root archives


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in changes.items():
        setattr(info, key, value)
    return info, b"content" if kind == tarfile.REGTYPE else b""


def unpack_to(tmp_path: Path, settings: DriverSettings, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    target = tmp_path / "tree"
    target.mkdir()
    unpack(archive(tmp_path / "a.tar", *members), target, settings)
    return target


def test_tree_belongs_to_shifted_owners_and_keeps_modes(tmp_path: Path, settings: DriverSettings) -> None:
    tree = unpack_to(
        tmp_path,
        settings,
        entry("./", tarfile.DIRTYPE),
        entry("./bin", tarfile.DIRTYPE, mode=0o555),
        entry("./bin/su", mode=0o4755),
        entry("./home", tarfile.DIRTYPE, uid=1000, gid=1000),
        entry("./home/file", uid=1000, gid=1001),
        entry("./bin/sudo", tarfile.LNKTYPE, linkname="./bin/su"),
        entry("./etc/mtab", tarfile.SYMTYPE, linkname="/proc/mounts"),
    )
    su = (tree / "bin" / "su").stat()
    assert (su.st_uid, su.st_gid, stat.S_IMODE(su.st_mode), su.st_nlink) == (BASE, BASE, 0o4755, 2)
    assert stat.S_IMODE((tree / "bin").stat().st_mode) == 0o555
    home = (tree / "home" / "file").stat()
    assert (home.st_uid, home.st_gid) == (BASE + 1000, BASE + 1001)
    assert os.readlink(tree / "etc" / "mtab") == "/proc/mounts"
    assert (tree / "etc" / "mtab").lstat().st_uid == BASE
    assert tree.stat().st_uid == BASE


@pytest.mark.parametrize(
    "members",
    [
        [entry("../escaped")],
        [entry("a/../../escaped")],
        [entry("link", tarfile.SYMTYPE, linkname="/"), entry("link/escaped")],
        [entry("link", tarfile.SYMTYPE, linkname=".."), entry("link/escaped")],
        [entry("link", tarfile.SYMTYPE, linkname="/etc"), entry("link", tarfile.DIRTYPE)],
        [entry("hard", tarfile.LNKTYPE, linkname="/etc/shadow")],
        [entry("hard", tarfile.LNKTYPE, linkname="../../etc/shadow")],
        [entry("link", tarfile.SYMTYPE, linkname="/etc/shadow"), entry("hard", tarfile.LNKTYPE, linkname="link")],
        [entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
        [entry("sda", tarfile.BLKTYPE, devmajor=8, devminor=0)],
        [entry("file", uid=65536)],
        [entry("file", gid=-1)],
        [entry(".", tarfile.REGTYPE)],
    ],
)
def test_archive_that_would_leave_its_tree_is_refused(
    tmp_path: Path, settings: DriverSettings, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with pytest.raises(Never) as caught:
        unpack_to(tmp_path, settings, *members)
    assert caught.value.code == "image_corrupt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "shared", "tree"]


def test_absolute_names_land_inside_and_links_are_replaced_not_followed(
    tmp_path: Path, settings: DriverSettings
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    tree = unpack_to(
        tmp_path,
        settings,
        entry("/etc/passwd"),
        entry("victim", tarfile.SYMTYPE, linkname=str(outside)),
        entry("victim"),
    )
    assert (tree / "etc" / "passwd").read_text() == "content"
    assert not (tree / "victim").is_symlink()
    assert outside.read_text() == "untouched"


def test_device_nodes_in_dev_are_left_out(tmp_path: Path, settings: DriverSettings) -> None:
    tree = unpack_to(tmp_path, settings, entry("dev", tarfile.DIRTYPE), entry("dev/null", tarfile.CHRTYPE))
    assert list((tree / "dev").iterdir()) == []


def test_truncated_archive_is_corrupt(tmp_path: Path, settings: DriverSettings) -> None:
    whole = archive(tmp_path / "whole.tar", entry("a"), entry("b"))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:700])
    (tmp_path / "tree").mkdir()
    with pytest.raises(Never):
        unpack(cut, tmp_path / "tree", settings)


def test_tree_is_made_once_even_by_many_at_once_and_after_a_crash(tmp_path: Path, settings: DriverSettings) -> None:
    source = archive(tmp_path / "a.tar", entry("etc", tarfile.DIRTYPE), entry("etc/name"))
    tree = tmp_path / "cache" / "tree"
    (tree.parent / "tree.part" / "left-over").mkdir(parents=True)
    threads = [threading.Thread(target=ensure_tree, args=(source, tree, settings)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(path.name for path in tree.iterdir()) == ["etc"]
    assert not (tree.parent / "tree.part").exists()


def test_copies_do_not_share_their_files(tmp_path: Path, settings: DriverSettings) -> None:
    tree = unpack_to(tmp_path, settings, entry("file", mode=0o4755))
    copy_tree(tree, tmp_path / "copy")
    (tmp_path / "copy" / "file").write_text("changed")
    assert (tree / "file").read_text() == "content"
    assert (tree / "file").stat().st_uid == BASE


def test_seed_never_follows_a_link_of_the_image(tmp_path: Path, settings: DriverSettings) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = unpack_to(
        tmp_path, settings, entry("var", tarfile.DIRTYPE), entry("var/lib", tarfile.SYMTYPE, linkname=str(outside))
    )
    with pytest.raises(Never):
        plant_seed(tree, make_spec("container"), settings)
    assert list(outside.iterdir()) == []


def test_seed_is_for_the_containers_root_only(tmp_path: Path, settings: DriverSettings) -> None:
    tree = unpack_to(tmp_path, settings, entry("etc", tarfile.DIRTYPE))
    plant_seed(tree, make_spec("container"), settings)
    data = (tree / "var/lib/cloud/seed/nocloud/user-data").stat()
    assert (data.st_uid, stat.S_IMODE(data.st_mode)) == (BASE, 0o600)


def test_listing_shows_half_removed_instances_and_nothing_else(settings: DriverSettings) -> None:
    assert list_instance_ids(settings) == ()
    first, second = make_spec().id, make_spec().id
    for name in (first, f".removing-{second}", "notes", ".removing-x"):
        (settings.shared_dir / "instances" / name).mkdir(parents=True)
    assert list_instance_ids(settings) == tuple(sorted((first, second)))


def test_tree_of_an_image_is_named_by_its_range(settings: DriverSettings) -> None:
    image, _ = put_image(settings)
    assert image_paths(settings, image).tree.name.endswith("-100000")
