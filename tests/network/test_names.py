"""What names and addresses are derived, and what is refused before it reaches a program or a rule."""

from __future__ import annotations

import dataclasses

import pytest

from compute.node.drivers.base import Never
from compute.node.network import names
from compute.wire import NetworkSpec, NicSpec

NETWORK = NetworkSpec("11111111-1111-4111-8111-111111111111", 42, "10.77.0.0/16", "10.77.0.1")
NIC = NicSpec("port-1", "52:54:00:00:00:01", "10.77.0.2", NETWORK, "cnp0123456789a")


def test_good_port_passes() -> None:
    names.check_port(NIC)


@pytest.mark.parametrize("vni", [1, 42, (1 << 24) - 1])
def test_device_names_fit_the_kernel_and_tell_their_role(vni: int) -> None:
    network = dataclasses.replace(NETWORK, vni=vni)
    bridge, vxlan = names.bridge_name(network), names.vxlan_name(network)
    assert len(bridge) <= 15
    assert len(vxlan) <= 15
    assert bridge.startswith("cnb")
    assert vxlan.startswith("cnv")


def test_gateway_mac_is_the_networks_own_local_and_unicast() -> None:
    mac = names.gateway_mac(NETWORK)
    assert mac == names.gateway_mac(dataclasses.replace(NETWORK, cidr="10.78.0.0/16", gateway="10.78.0.9"))
    assert mac != names.gateway_mac(dataclasses.replace(NETWORK, id="21111111-1111-4111-8111-111111111111"))
    assert int(mac[:2], 16) & 3 == 2


@pytest.mark.parametrize(
    "device",
    [
        "",
        "cnp",
        "cnb2a",
        "cnv2a",
        "eth0",
        "vnet0",
        "cnp0123456789abc",
        "cnpABC",
        "cnp1\n",
        "cnp1 ",
        'cnp1"',
        "-cnp1",
        "cnp*",
    ],
)
def test_bad_device_is_refused(device: str) -> None:
    with pytest.raises(Never) as caught:
        names.check_port(dataclasses.replace(NIC, device=device))
    assert caught.value.code == "port_invalid"


@pytest.mark.parametrize(
    "mac",
    ["", "52:54:00:00:00", "52:54:00:00:00:0G", "52:54:00:00:00:AB", "53:54:00:00:00:01", "00:00:00:00:00:00",
     "ff:ff:ff:ff:ff:ff", "52:54:00:00:00:01\n", "52-54-00-00-00-01", names.gateway_mac(NETWORK)],
)  # fmt: skip
def test_bad_mac_is_refused(mac: str) -> None:
    with pytest.raises(Never) as caught:
        names.check_port(dataclasses.replace(NIC, mac=mac))
    assert caught.value.code == "port_invalid"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "10.77.0.0",
        "10.77.255.255",
        "10.77.0.1",
        "10.78.0.2",
        "10.77.0.2/16",
        "10.77.0.02",
        "::1",
        "10.77.0.2 }",
        "1",
    ],
)
def test_bad_address_is_refused(address: str) -> None:
    with pytest.raises(Never) as caught:
        names.check_port(dataclasses.replace(NIC, address=address))
    assert caught.value.code == "port_invalid"


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../etc"},
        {"id": "11111111-1111-4111-8111-11111111111A"},
        {"vni": 0},
        {"vni": 1 << 24},
        {"vni": -1},
        {"cidr": "10.77.0.5/16"},
        {"cidr": "10.77.0.0/31"},
        {"cidr": "fd00::/64"},
        {"cidr": "x"},
        {"gateway": "10.78.0.1"},
        {"gateway": "10.77.0.0"},
        {"gateway": "10.77.255.255"},
        {"gateway": "x\nport=53"},
        {"mtu": 100},
        {"mtu": 65536},
        {"dns": ("1.1.1.1\ndhcp-script=/bin/sh",)},
    ],
)
def test_bad_network_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Never) as caught:
        names.check_network(dataclasses.replace(NETWORK, **change))  # type: ignore[arg-type]
    assert caught.value.code == "network_invalid"


@pytest.mark.parametrize("address", ["", "x", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1/24", "fe80::1"])
def test_bad_underlay_address_is_refused(address: str) -> None:
    with pytest.raises(Never) as caught:
        names.check_address(address)
    assert caught.value.code == "address_invalid"
