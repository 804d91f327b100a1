"""Device names, derived addresses, and the checks that every value passes before it reaches a program or a rule.

Names carry their role, because the packet filter matches by prefix: `cnb` bridge, `cnv` VXLAN device, `cnp` guest port.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import uuid

from compute.node.drivers.base import Never
from compute.wire import NetworkSpec, NicSpec

BRIDGE_PREFIX = "cnb"
VXLAN_PREFIX = "cnv"
PORT_PREFIX = "cnp"

MIN_MTU, MAX_MTU = 576, 9000
VXLAN_OVERHEAD = 50  # bytes: inner Ethernet 14, VXLAN 8, UDP 8, IPv4 20

_DEVICE = re.compile(r"cnp[0-9a-f]{1,12}", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


def bridge_name(network: NetworkSpec) -> str:
    """Return the name of the network's bridge, the same on every host."""
    return f"{BRIDGE_PREFIX}{network.vni:x}"


def vxlan_name(network: NetworkSpec) -> str:
    """Return the name of the network's VXLAN device, the same on every host."""
    return f"{VXLAN_PREFIX}{network.vni:x}"


def gateway_mac(network: NetworkSpec) -> str:
    """Return the gateway's MAC: derived from the network's id, so that all hosts agree without asking each other.

    The first octet says unicast and locally administered.
    """
    digest = hashlib.sha256(f"cenote gateway {network.id}".encode()).digest()
    return ":".join(["0a", *(f"{octet:02x}" for octet in digest[:5])])


def check_device(device: str) -> None:
    """Raise Never("port_invalid") unless `device` is a port's name."""
    if not _DEVICE.fullmatch(device):
        raise Never("port_invalid", f"{device!r} is not a port device name (cnp and 1 to 12 hex digits)")


def check_address(address: str) -> None:
    """Raise Never("address_invalid") unless `address` is a plain unicast IPv4 address in its usual spelling."""
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        raise Never("address_invalid", f"{address!r} is not an IPv4 address")
    if parsed.is_multicast or parsed.is_unspecified or int(parsed) == 0xFFFFFFFF:
        raise Never("address_invalid", f"{address} is not a host's address")


def check_network(network: NetworkSpec) -> None:
    """Raise Never("network_invalid") unless every field may safely reach a program."""

    def refuse(why: str) -> Never:
        return Never("network_invalid", f"network {network.id!r}: {why}")

    try:
        if str(uuid.UUID(network.id)) != network.id:
            raise ValueError
    except ValueError:
        raise refuse("id is not a UUID")
    if not 1 <= network.vni < 1 << 24:
        raise refuse(f"vni {network.vni} is not in 1..16777215")
    if not MIN_MTU <= network.mtu <= MAX_MTU:
        raise refuse(f"mtu {network.mtu} is not in {MIN_MTU}..{MAX_MTU}")
    try:
        cidr = ipaddress.IPv4Network(network.cidr)
        gateway = ipaddress.IPv4Address(network.gateway)
        for server in network.dns:
            ipaddress.IPv4Address(server)
    except ValueError as error:
        raise refuse(str(error))
    if cidr.prefixlen > 30:
        raise refuse(f"{cidr} has no room for a guest")
    if not is_host_address(gateway, cidr):
        raise refuse(f"gateway {gateway} is not a host address of {cidr}")


def check_port(nic: NicSpec) -> None:
    """Raise Never("port_invalid" | "network_invalid") unless port and network are well formed and fit together."""
    check_network(nic.network)
    check_device(nic.device)
    if not _MAC.fullmatch(nic.mac) or int(nic.mac[:2], 16) & 1 or nic.mac == "00:00:00:00:00:00":
        raise Never("port_invalid", f"port {nic.device}: {nic.mac!r} is not a unicast MAC in lower case")
    if nic.mac == gateway_mac(nic.network):
        raise Never("port_invalid", f"port {nic.device}: {nic.mac} is the gateway's MAC")
    try:
        address = ipaddress.IPv4Address(nic.address)
    except ValueError as error:
        raise Never("port_invalid", f"port {nic.device}: {error}")
    cidr = ipaddress.IPv4Network(nic.network.cidr)
    if not is_host_address(address, cidr) or nic.address == nic.network.gateway:
        raise Never("port_invalid", f"port {nic.device}: {address} is not a guest's address of {cidr}")


def is_host_address(address: ipaddress.IPv4Address, cidr: ipaddress.IPv4Network) -> bool:
    """Return whether `address` lies in `cidr` and is neither its network nor its broadcast address."""
    return address in cidr and address not in (cidr.network_address, cidr.broadcast_address)
