"""The state file: whole or absent, never half; one holder of the lock at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from compute.node.drivers.base import Never, RetryLater
from compute.node.network import programs
from compute.node.network.dhcp import config_text, hosts_text
from compute.node.network.records import NetworkRecord, PortRecord, Records, State, find_port
from compute.node.network.settings import NetworkSettings
from compute.wire import NetworkSpec

NETWORK = NetworkSpec("11111111-1111-4111-8111-111111111111", 42, "10.77.0.0/16", "10.77.0.1", dns=("9.9.9.9",))
PORT = PortRecord("cnp1", "52:54:00:00:00:01", "10.77.0.2", "port-1", NETWORK.id)
STATE = State().with_network(NetworkRecord(NETWORK, ("10.250.0.2",))).with_port(PORT)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    records = Records(tmp_path, 1)
    with records.locked():
        records.write(STATE)
    assert records.read() == STATE
    assert find_port(tmp_path, PORT.address) == PORT
    assert find_port(tmp_path, "10.77.0.3") is None


def test_nothing_there_is_an_empty_state(tmp_path: Path) -> None:
    assert Records(tmp_path / "none", 1).read() == State()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ports": 7}', '{"ports": {"cnp1": {"device": "cnp1"}}}'])
def test_unreadable_file_is_an_empty_state(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert Records(tmp_path, 1).read() == State()


def test_state_keeps_ports_of_networks_apart() -> None:
    other = PortRecord("cnp2", "52:54:00:00:00:02", "10.78.0.2", "port-2", "another")
    assert STATE.with_port(other).ports_of(NETWORK.id) == (PORT,)
    assert STATE.with_port(other).without_port("cnp2") == STATE
    assert STATE.without_network(NETWORK.id).networks == {}


def test_lock_keeps_threads_apart(tmp_path: Path) -> None:
    records = Records(tmp_path, 5)
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with records.locked():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_lock_that_stays_taken_is_retried_later(tmp_path: Path) -> None:
    records = Records(tmp_path, 0.05)
    with records.locked(), pytest.raises(RetryLater) as caught, records.locked():
        pass
    assert caught.value.code == "network_busy"


def test_dhcp_configuration_says_what_the_network_says() -> None:
    text = config_text(NETWORK, directory=Path("/run/x"), bridge_index=7, settings=NetworkSettings(lease_seconds=600))
    lines = text.splitlines()
    assert "interface=cnb2a" in lines
    assert "dhcp-range=10.77.0.0,static,255.255.0.0,600" in lines
    assert "dhcp-option=option:router,10.77.0.1" in lines
    assert "dhcp-option=option:mtu,1450" in lines
    assert "dhcp-option=option:dns-server,9.9.9.9" in lines
    assert "dhcp-ignore=tag:!known" in lines
    assert "port=0" in lines
    again = config_text(NETWORK, directory=Path("/run/x"), bridge_index=8, settings=NetworkSettings(lease_seconds=600))
    assert again != text, "a bridge made again needs a new server"


def test_hosts_file_has_one_line_a_port() -> None:
    assert hosts_text((PORT,)) == "52:54:00:00:00:01,10.77.0.2\n"


def test_missing_program_is_never_a_reason_to_try_again() -> None:
    with pytest.raises(Never) as caught:
        programs.run("cenote-no-such-program")
    assert caught.value.code == "program_missing"


def test_failed_program_says_what_it_said() -> None:
    with pytest.raises(RetryLater, match="nothing-there") as caught:
        programs.run("ls", "nothing-there")
    assert caught.value.code == "network_command_failed"
