"""The tiny VM image, booted for real."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.images.seeds import make_keypair, meta_data, write_iso
from tests.images.vm import Vm

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CLOUD_CONFIG = """#cloud-config
hostname: web-1
write_files:
  - path: /etc/motto
    content: "so be it\\n"
    permissions: "0640"
runcmd:
  - echo once >> /root/runs
  - [sh, -c, "echo 'two words' > /root/words"]
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_manifest_names_files_with_their_checksums(vm_image: Path) -> None:
    manifest = json.loads((vm_image / "tiny.json").read_text())
    assert manifest["name"] == "tiny"
    assert manifest["boot"] == "kernel"
    for entry in manifest["files"].values():
        assert sha256(vm_image / entry["path"]) == entry["sha256"]
        assert (vm_image / entry["path"]).stat().st_size == entry["size_bytes"]


def test_disk_stands_alone(vm_image: Path) -> None:
    output = subprocess.check_output(["qemu-img", "info", "--output=json", vm_image / "tiny.qcow2"])
    info = json.loads(output)
    assert "backing-filename" not in info
    assert info["virtual-size"] == json.loads((vm_image / "tiny.json").read_text())["virtual_size_bytes"]


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_boots_in_seconds_and_takes_its_seed(vm_image: Path, tmp_path: Path, key: Path, machine: str) -> None:
    seed = write_iso(tmp_path / "seed.iso", meta_data("i-1", "ignored-for-user-data", key), CLOUD_CONFIG)
    with Vm(vm_image, tmp_path, seed, key, machine=machine) as vm:
        seconds = vm.wait_for_sshd()
        queued = vm.seconds_in_queue()
        print(f"sshd answered after {seconds:.1f} s on {machine}, {queued:.1f} s of them in line for a processor")
        # Alone on a machine it takes 4 to 6 s.
        assert seconds - queued < 20
        vm.wait_for_console("cenote: ready: web-1")
        vm.wait_for_console("runcmd ended with status 0")
        assert vm.ssh("hostname", user="cenote") == "web-1"
        assert vm.ssh("id -u", user="cenote") == "1000"
        assert vm.ssh("doas id -u", user="cenote") == "0"
        assert vm.ssh("cat /etc/motto; stat -c %a /etc/motto; cat /root/words") == "so be it\n640\ntwo words"
        copy: list[str | Path] = ["scp", "-q", "-i", key, "-P", str(vm.port), "-o", "StrictHostKeyChecking=no"]
        copy += ["-o", "UserKnownHostsFile=/dev/null", vm_image / "tiny.json", "cenote@127.0.0.1:copied"]
        subprocess.run(copy, check=True, timeout=30)
        assert vm.ssh("sha256sum </home/cenote/copied")[:64] == sha256(vm_image / "tiny.json")
        assert "web-1 login:" in vm.console_text()
        # 256 MiB in the image, 2 GiB on this disk.
        assert int(vm.ssh("df -m / | awk 'END { print $2 }'")) > 1900


def test_files_and_identity_outlive_reboot_and_power_cut(vm_image: Path, tmp_path: Path, key: Path) -> None:
    seed = write_iso(
        tmp_path / "seed.iso", meta_data("i-2", "keeper", key), CLOUD_CONFIG.replace("hostname: web-1\n", "")
    )
    with Vm(vm_image, tmp_path, seed, key) as vm:
        vm.wait_for_sshd()
        vm.wait_for_console("runcmd ended with status 0")
        vm.wait_for_console("cenote: ready: keeper")
        host_key = vm.ssh("md5sum </etc/dropbear/ed25519")
        vm.ssh("echo kept >/root/kept")
        vm.ssh_last("reboot")
        vm.wait_for_console("cenote: stopping for reboot")
        vm.wait_for_console("cenote: ready: keeper", times=2)
        assert vm.ssh("cat /root/kept /root/runs") == "kept\nonce"
        vm.ssh("echo synced >/root/synced; sync")
    with Vm(vm_image, tmp_path, seed, key) as vm:  # its power was cut on leaving
        vm.wait_for_sshd()
        vm.wait_for_console("cenote: ready: keeper")
        assert vm.ssh("cat /root/kept /root/synced /root/runs") == "kept\nsynced\nonce"
        assert vm.ssh("md5sum </etc/dropbear/ed25519") == host_key


def test_clone_with_another_instance_id_becomes_another_machine(vm_image: Path, tmp_path: Path, key: Path) -> None:
    first = write_iso(
        tmp_path / "first.iso", meta_data("i-3", "original", key), "#!/bin/sh\necho script >>/root/runs\n"
    )
    with Vm(vm_image, tmp_path, first, key) as vm:
        vm.wait_for_console("user-script ended with status 0")
        vm.wait_for_sshd()
        host_key = vm.ssh("md5sum </etc/dropbear/ed25519")
        vm.ssh("sync")
    other_key = make_keypair(tmp_path)
    second = write_iso(
        tmp_path / "second.iso", meta_data("i-4", "clone", other_key), "#!/bin/sh\necho again >>/root/runs\n"
    )
    with Vm(vm_image, tmp_path, second, other_key) as vm:
        vm.wait_for_console("user-script ended with status 0")
        assert vm.ssh("hostname; cat /root/runs") == "clone\nscript\nagain"
        assert vm.ssh("md5sum </etc/dropbear/ed25519") != host_key
        vm.key = key
        with pytest.raises(subprocess.CalledProcessError):
            vm.ssh("true")


def test_power_button_and_guest_agent_stop_it(vm_image: Path, tmp_path: Path, key: Path) -> None:
    with Vm(vm_image, tmp_path, write_iso(tmp_path / "seed.iso", meta_data("i-5", "stopper", key), ""), key) as vm:
        vm.wait_for_sshd()
        vm.wait_for_console("cenote: ready")
        vm.ssh("echo unsynced >/root/late")
        vm.qmp("system_powerdown")
        seconds = vm.wait_for_end(timeout=60)
        print(f"powered off {seconds:.1f} s after the power button")
        assert vm.process is not None
        assert vm.process.returncode == 0
    with Vm(vm_image, tmp_path, tmp_path / "seed.iso", key) as vm:
        vm.wait_for_sshd()
        assert vm.ssh("cat /root/late") == "unsynced"
        addresses = json.dumps(vm.agent("guest-network-get-interfaces"))
        assert "10.0.2.15" in addresses
        vm.agent("guest-ping")
        vm.ssh_last("poweroff")
        vm.wait_for_end(timeout=60)


def test_it_starts_without_a_seed_and_lets_nobody_in(vm_image: Path, tmp_path: Path, key: Path) -> None:
    with Vm(vm_image, tmp_path, None, key) as vm:
        vm.wait_for_sshd()
        vm.wait_for_console("cenote: ready: tiny")
        assert "no NoCloud seed" in vm.console_text()
        for user in ("root", "cenote"):
            with pytest.raises(subprocess.CalledProcessError) as refusal:
                vm.ssh("true", user=user)
            assert "Permission denied" in refusal.value.stderr
