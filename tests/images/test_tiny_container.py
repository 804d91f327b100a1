"""The tiny container image under a real libvirt, in a user namespace."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.images.container import FIRST_ID, TinyContainer
from tests.images.lxchost import LxcHost
from tests.images.seeds import meta_data

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

USER_DATA = "#cloud-config\nruncmd:\n  - echo once >>/root/runs\n"


@pytest.fixture(scope="module")
def container(lxc_host: LxcHost, container_image: Path, key: Path) -> TinyContainer:
    container = TinyContainer(lxc_host, container_image, key, meta_data("c-1", "box-1", key), USER_DATA)
    seconds = container.start()
    print(f"sshd answered after {seconds:.1f} s")
    return container


def test_takes_its_seed_unprivileged(container: TinyContainer) -> None:
    assert container.ssh("hostname", user="cenote") == "box-1"
    assert container.ssh("doas id -u", user="cenote") == "0"
    first, outside, _ = container.ssh("cat /proc/self/uid_map").split()
    assert (first, outside) == ("0", str(FIRST_ID))
    assert container.ssh("cat /sys/class/net/eth0/mtu") == "1450"
    deadline = time.monotonic() + 10
    while container.ssh("cat /root/runs 2>/dev/null || true") != "once":
        assert time.monotonic() < deadline


def test_console_speaks(container: TinyContainer) -> None:
    # A newline on the console makes getty show its prompt again.
    text = container.host.run(
        "bash",
        "-c",
        "(sleep 1; echo; sleep 1) | timeout 3 script -qc 'virsh -q -c lxc:///system console tiny' /dev/null; true",
    )
    assert "box-1 login:" in text


@pytest.mark.parametrize("mode", ["default", "initctl", "signal"])
def test_shutdown_stops_it_and_keeps_its_files(container: TinyContainer, mode: str) -> None:
    container.ssh(f"echo {mode} >/root/kept")
    container.host.virsh("shutdown", "tiny", *(() if mode == "default" else ("--mode", mode)))
    assert container.wait_for_end() < 10
    container.start()
    assert container.ssh("cat /root/kept /root/runs") == f"{mode}\nonce"


@pytest.mark.parametrize("how", ["initctl", "signal", "inside"])
def test_reboot_brings_it_back(container: TinyContainer, how: str) -> None:
    before = container.host.virsh("domid", "tiny")
    host_key = container.ssh("md5sum </etc/dropbear/ed25519")
    if how == "inside":
        container.ssh_last("doas reboot", user="cenote")
    else:
        container.host.virsh("reboot", "tiny", "--mode", how)
    deadline = time.monotonic() + 60
    while container.state() != "running" or container.host.virsh("domid", "tiny") == before:
        assert time.monotonic() < deadline, "the container did not come back"
        time.sleep(0.1)
    container.wait_until_up()
    assert container.ssh("md5sum </etc/dropbear/ed25519") == host_key


@pytest.mark.parametrize("command", ["poweroff", "shutdown -h now", "kill -PWR 1", "kill -INT 1", "kill -37 1"])
def test_poweroff_from_inside_stops_it(container: TinyContainer, command: str) -> None:
    """37 is RTMIN+3, systemd's signal for halting."""
    container.ssh_last(command)
    container.wait_for_end()
    container.start()
