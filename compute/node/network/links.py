"""Bridge and VXLAN device of a network: ensure, peers, remove.

`/sys/class/net` is never read: a process that entered a network namespace without a mount of its own still sees the
devices of the namespace in which /sys was mounted. `ip` and the calls of `socket` speak of the namespace one is in.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compute.node.drivers.base import Never, RetryLater
from compute.node.network.names import PORT_PREFIX, VXLAN_OVERHEAD, bridge_name, gateway_mac, vxlan_name
from compute.node.network.programs import ask, run
from compute.wire import NetworkSpec

_EVERYBODY = "00:00:00:00:00:00"  # VXLAN's entry for broadcast and unknown addresses
_ETHERTYPE_RARP = 0x8035

# arp_ignore, arp_announce: guests learn the gateway's address and no other address of the host.
_SYSCTLS = (("ipv6", "disable_ipv6", "1"), ("ipv4", "arp_ignore", "1"), ("ipv4", "arp_announce", "2"))


def index_of(device: str) -> int:
    """Return the device's index, 0 when there is no such device."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def ensure_bridge(spec: NetworkSpec) -> None:
    """Ensure the bridge, up, with the gateway's MAC and address, which are the same on every host."""
    name, mac = bridge_name(spec), gateway_mac(spec)
    address = f"{spec.gateway}/{ipaddress.IPv4Network(spec.cidr).prefixlen}"
    seen = _look(name)
    if seen is None:
        run("ip", "link", "add", name, "address", mac, "mtu", str(spec.mtu), "type", "bridge",
            "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")  # fmt: skip
        run("ip", "link", "set", "dev", name, "addrgenmode", "none")
    elif _kind(seen) != "bridge":
        raise Never("device_taken", f"{name} exists and is not a bridge")
    elif seen["address"] != mac or seen["mtu"] != spec.mtu:
        run("ip", "link", "set", "dev", name, "address", mac, "mtu", str(spec.mtu))
    _set_sysctls(name)
    held = _addresses(name)
    if address not in held:
        run("ip", "address", "add", address, "broadcast", "+", "dev", name)
    for stale in held - {address}:
        run("ip", "address", "delete", stale, "dev", name)
    if seen is None or "UP" not in seen["flags"]:
        run("ip", "link", "set", "dev", name, "up")


def ensure_vxlan(spec: NetworkSpec, *, underlay: str, port: int) -> None:
    """Ensure the VXLAN device, up, in the bridge. Raises Never("underlay_mtu"), RetryLater("underlay_missing").

    It learns which host a guest's MAC lives on from the frames it gets, so that only broadcast goes to all hosts.
    """
    name, bridge = vxlan_name(spec), bridge_name(spec)
    wanted = {"id": spec.vni, "local": underlay, "port": port}
    seen = _look(name)
    if seen is not None and _kind(seen) != "vxlan":
        raise Never("device_taken", f"{name} exists and is not a VXLAN device")
    if seen is not None and not wanted.items() <= seen["linkinfo"]["info_data"].items():
        run(
            "ip", "link", "delete", "dev", name
        )  # the host's underlay address changed: these cannot be changed in place
        seen = None
    if seen is None:
        _check_underlay(spec, underlay)
        run("ip", "link", "add", name, "mtu", str(spec.mtu), "type", "vxlan",
            "id", str(spec.vni), "local", underlay, "dstport", str(port), "learning")  # fmt: skip
    if seen is None or seen.get("master") != bridge or seen["mtu"] != spec.mtu or "UP" not in seen["flags"]:
        run("ip", "link", "set", "dev", name, "addrgenmode", "none")
        run("ip", "link", "set", "dev", name, "mtu", str(spec.mtu), "master", bridge, "up")
    _set_sysctls(name)


def ensure_peers(spec: NetworkSpec, peers: Iterable[str]) -> None:
    """Ensure that broadcast of the network goes to exactly these hosts."""
    name, wanted = vxlan_name(spec), set(peers)
    entries = ask("bridge", "-j", "fdb", "show", "dev", name)
    held = {entry["dst"] for entry in entries if entry.get("mac") == _EVERYBODY and "dst" in entry}
    for peer in sorted(wanted - held):
        run("bridge", "fdb", "append", _EVERYBODY, "dev", name, "dst", peer)
    for peer in sorted(held - wanted):
        run("bridge", "fdb", "delete", _EVERYBODY, "dev", name, "dst", peer)


def ensure_attached(devices: dict[str, str]) -> None:
    """Put ports back that lost their bridge. `devices`: name -> bridge. Devices that do not exist (yet) are left out.

    A bridge that was deleted and made again would otherwise leave running guests cut off for good.
    """
    for link in ask("ip", "-j", "link", "show"):
        bridge = devices.get(link["ifname"])
        if bridge and link["ifname"].startswith(PORT_PREFIX) and "master" not in link:
            run("ip", "link", "set", "dev", link["ifname"], "master", bridge, "up")


def seen() -> dict[str, dict[str, Any]]:
    """Return all devices of this host as `ip` shows them, by name."""
    return {link["ifname"]: link for link in ask("ip", "-j", "link", "show")}


def is_whole(spec: NetworkSpec, devices: dict[str, dict[str, Any]], *, tunnel: bool) -> bool:
    """Return whether the network's bridge is up and, where hosts are joined by a `tunnel`, its VXLAN device is up in it."""
    bridge, vxlan = devices.get(bridge_name(spec), {}), devices.get(vxlan_name(spec), {})
    if "UP" not in bridge.get("flags", ()):
        return False
    return not tunnel or ("UP" in vxlan.get("flags", ()) and vxlan.get("master") == bridge_name(spec))


def remove_links(spec: NetworkSpec) -> None:
    """Ensure that the network's VXLAN device and bridge are gone."""
    for name in (vxlan_name(spec), bridge_name(spec)):
        if index_of(name):
            run("ip", "link", "delete", "dev", name)


def announce(spec: NetworkSpec, *, device: str, mac: str) -> None:
    """Tell this host's bridge, and by one RARP frame the other hosts, that `mac` lives here behind `device`.

    Until the guest speaks, the bridge would go on sending its frames to where the guest was last heard.
    """
    if index_of(device):
        run("bridge", "fdb", "replace", mac, "dev", device, "master", "dynamic")
    name = vxlan_name(spec)
    if not index_of(name):
        return
    sender = bytes.fromhex(mac.replace(":", ""))
    header = b"\xff" * 6 + sender + _ETHERTYPE_RARP.to_bytes(2, "big")
    body = bytes.fromhex("0001080006040003") + (sender + bytes(4)) * 2
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
            link.bind((name, 0))
            link.send((header + body).ljust(60, b"\0"))
    except OSError as error:
        raise RetryLater("announce_failed", f"{name}: {error}")


def _check_underlay(spec: NetworkSpec, underlay: str) -> None:
    for link in ask("ip", "-j", "address", "show"):
        if any(item.get("local") == underlay for item in link.get("addr_info", ())):
            room = link["mtu"] - VXLAN_OVERHEAD
            if room < spec.mtu:
                raise Never("underlay_mtu", f"{link['ifname']} leaves {room} bytes, network {spec.id} needs {spec.mtu}")
            return
    raise RetryLater("underlay_missing", f"no device of this host has the underlay address {underlay}")


def _look(device: str) -> dict[str, Any] | None:
    if not index_of(device):
        return None
    return ask("ip", "-d", "-j", "link", "show", "dev", device)[0]


def _kind(link: dict[str, Any]) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def _addresses(device: str) -> set[str]:
    items = ask("ip", "-4", "-j", "address", "show", "dev", device)
    return {f"{a['local']}/{a['prefixlen']}" for link in items for a in link.get("addr_info", ())}


def _set_sysctls(device: str) -> None:
    for family, key, value in _SYSCTLS:
        path = Path(f"/proc/sys/net/{family}/conf/{device}/{key}")
        try:
            if path.exists() and path.read_text().strip() != value:  # IPv6 may not be in the kernel at all
                path.write_text(value)
        except OSError as error:
            raise RetryLater("network_sysctl_failed", f"{path}: {error}")
