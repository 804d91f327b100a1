"""A private libvirt host with the tiny images in its storage, once for all tests of this directory that need one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compute.node.drivers.libvirt.host import LibvirtDriver
from compute.node.drivers.settings import DriverSettings
from compute.wire import ImageRef
from tests.drivers.libvirtd import PlainBridge, PrivateHost, private_host
from tests.drivers.specs import TREE_IMAGE, VM_IMAGE

REPOSITORY = Path(__file__).resolve().parents[2]
BUILDERS = REPOSITORY / "deploy" / "images"
STORAGE_ID = "9f1c7f0e-55d1-4a3e-9d3a-0f6d0c4b7a11"


@dataclass(frozen=True, slots=True)
class Lab:
    """One private host, its settings, and the images that its guests are made from."""

    host: PrivateHost
    settings: DriverSettings
    network: PlainBridge
    vm_image: ImageRef
    tree_image: ImageRef

    def open_driver(self) -> LibvirtDriver:
        return LibvirtDriver(self.settings, self.network)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the built tiny images: the installed cloud's where there is one, else freshly built."""
    built = Path(os.environ.get("CENOTE_STATE_DIR") or REPOSITORY / "var") / "images"
    if (built / "tiny.json").is_file() and (built / "tiny-container.json").is_file():
        return built
    directory = tmp_path_factory.mktemp("tiny-images")
    for builder in ("build-tiny-vm", "build-tiny-container"):
        done = subprocess.run([BUILDERS / builder, directory], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return directory


def furnish(host: PrivateHost, tiny_images: Path) -> Lab:
    """Put images, proof files and the storage marker where the host expects them."""
    vm = json.loads((tiny_images / "tiny.json").read_text())
    tree = json.loads((tiny_images / "tiny-container.json").read_text())
    shared = host.root / "shared"
    for directory in (shared, shared / "images", shared / "proof"):
        directory.mkdir(mode=0o711)
    (shared / ".cenote-storage").write_text(f"{STORAGE_ID}\n")
    for source, target in (
        ("tiny.qcow2", f"images/{VM_IMAGE.id}.qcow2"),
        ("tiny.kernel", f"images/{VM_IMAGE.id}.kernel"),
        ("tiny.initrd", f"images/{VM_IMAGE.id}.initrd"),
        ("tiny-container.tar", f"images/{TREE_IMAGE.id}.tar"),
        ("tiny.kernel", "proof/kernel"),
        ("tiny.initrd", "proof/initrd"),
        ("tiny-container.tar", "proof/root.tar"),
    ):
        shutil.copyfile(tiny_images / source, shared / target)
    settings = DriverSettings(
        vcpus=2,
        memory_mib=2048,
        disk_gib=20,
        shared_dir=shared,
        local_dir=host.root / "local",
        qemu_uri=host.qemu_uri,
        lxc_uri=host.lxc_uri,
        libvirt_log_dir=host.root / "log",
        libvirt_run_dir=host.root / "run" / "libvirt",
        partition=host.netns,
    )
    vm_image = dataclasses.replace(
        VM_IMAGE, sha256=vm["files"]["disk"]["sha256"], boot=vm["boot"], kernel_args=vm["kernel_args"]
    )
    tree_image = dataclasses.replace(TREE_IMAGE, sha256=tree["files"]["disk"]["sha256"])
    return Lab(host, settings, PlainBridge(host), vm_image, tree_image)


@pytest.fixture(scope="session")
def lab(tiny_images: Path) -> Iterator[Lab]:
    """A host as the lab has them: QEMU runs as root, since the namespaces are the fence."""
    with private_host() as host:
        yield furnish(host, tiny_images)
