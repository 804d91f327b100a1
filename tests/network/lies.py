"""The frames that a hostile guest may try, and those that an honest one needs; each carries a note to know it by."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compute.node.network.names import gateway_mac
from compute.wire import NetworkSpec
from tests.network import frames
from tests.network.frames import BROADCAST
from tests.network.topology import Guest

Lie = Callable[["Scene"], bytes]
RARP_BODY = bytes.fromhex("0001080006040003") + bytes(20)


@dataclass(frozen=True)
class Scene:
    network: NetworkSpec
    liar: Guest
    victim: Guest
    hearer: Guest
    note: bytes

    @property
    def gateway_mac(self) -> str:
        return gateway_mac(self.network)

    def udp(self, **changes: Any) -> bytes:
        """An honest datagram to the hearer, apart from `changes`."""
        fields: dict[str, Any] = {"source": self.liar.mac, "to": self.hearer.mac, "src": self.liar.address}
        fields |= {"dst": self.hearer.address, "body": self.note} | changes
        return frames.udp(**fields)

    def shout(self, **changes: Any) -> bytes:
        return self.udp(to=BROADCAST, dst="255.255.255.255", **changes)

    def arp(self, **changes: Any) -> bytes:
        """An honest gratuitous ARP reply, apart from `changes`."""
        own = self.liar.address
        fields: dict[str, Any] = {
            "source": self.liar.mac,
            "sender_mac": self.liar.mac,
            "sender_ip": own,
            "target_ip": own,
        }
        return frames.arp(**(fields | {"reply": True, "note": self.note} | changes))

    def offer(self, **changes: Any) -> bytes:
        body = frames.bootp(op=2, client_mac=self.victim.mac, message=2, note=self.note, offered=self.liar.address)
        return self.udp(sport=67, dport=68, body=body, **changes)

    def stolen(self) -> bytes:
        return self.udp(src=self.victim.address)


def _discover(s: Scene) -> bytes:
    body = frames.bootp(op=1, client_mac=s.liar.mac, message=1, note=s.note)
    return s.shout(src="0.0.0.0", sport=68, dport=67, body=body)


def _icmp6(s: Scene, kind: int, *, room: int, to: str) -> bytes:
    return frames.ipv6(s.liar.mac, next_header=58, body=bytes([kind]) + bytes(room) + s.note, to=to)


def _foreign_arp(s: Scene) -> bytes:
    body = struct.pack("!HHBBH", 6, frames.IPV4, 6, 4, 2) + bytes(20) + s.note
    return frames.ethernet(s.liar.mac, BROADCAST, frames.ARP, body)


LIES: dict[str, Lie] = {
    "forged MAC": lambda s: s.udp(source="52:54:00:ee:ee:ee"),
    "victim's MAC and IP": lambda s: s.udp(source=s.victim.mac, src=s.victim.address),
    "victim's MAC in a broadcast": lambda s: s.shout(source=s.victim.mac),
    "gateway's MAC": lambda s: s.shout(source=s.gateway_mac),
    "forged IP": lambda s: s.udp(src="192.0.2.7"),
    "victim's IP": lambda s: s.stolen(),
    "gateway's IP": lambda s: s.udp(src=s.network.gateway),
    "no IP": lambda s: s.udp(src="0.0.0.0"),
    "no IP, DHCP ports, to a neighbour": lambda s: s.udp(src="0.0.0.0", sport=68, dport=67),
    "ARP reply for the victim": lambda s: s.arp(sender_ip=s.victim.address, to=s.hearer.mac),
    "ARP reply for the gateway": lambda s: s.arp(sender_ip=s.network.gateway, to=s.hearer.mac),
    "gratuitous ARP for the victim": lambda s: s.arp(sender_ip=s.victim.address, target_ip=s.victim.address),
    "gratuitous ARP for the gateway": lambda s: s.arp(sender_ip=s.network.gateway, target_ip=s.network.gateway),
    "gratuitous ARP request for the victim": lambda s: s.arp(
        sender_ip=s.victim.address, target_ip=s.victim.address, reply=False
    ),
    "ARP with another's MAC inside": lambda s: s.arp(sender_mac=s.victim.mac),
    "ARP probe for the victim's address": lambda s: s.arp(sender_ip="0.0.0.0", target_ip=s.victim.address, reply=False),
    "ARP of a strange hardware type": _foreign_arp,
    "DHCP offer": lambda s: s.offer(to=BROADCAST, dst="255.255.255.255"),
    "DHCP offer in the gateway's name": lambda s: s.offer(src=s.network.gateway),
    "DHCP offer behind IP options": lambda s: s.offer(options=b"\x01\x01\x01\x00"),
    "DHCP offer as a first fragment": lambda s: s.offer(fragment=0x2000),
    "DHCP request": _discover,
    "IPv6 router advertisement": lambda s: _icmp6(s, 134, room=15, to="33:33:00:00:00:01"),
    "IPv6 neighbour advertisement": lambda s: _icmp6(s, 136, room=23, to=s.hearer.mac),
    "IPv6 datagram": lambda s: frames.ipv6(s.liar.mac, next_header=17, body=bytes(8) + s.note, to=s.hearer.mac),
    "stolen IP in VLAN 5": lambda s: frames.tagged(s.stolen(), vlan=5),
    "stolen IP in a priority tag": lambda s: frames.tagged(s.stolen()),
    "stolen IP in two tags": lambda s: frames.tagged(frames.tagged(s.stolen()), kind=frames.QINQ),
    "stolen ARP in a priority tag": lambda s: frames.tagged(s.arp(sender_ip=s.victim.address)),
    "honest frame in VLAN 5": lambda s: frames.tagged(s.udp(), vlan=5),
    "honest frame in a priority tag": lambda s: frames.tagged(s.udp()),
    "PPPoE discovery": lambda s: frames.ethernet(s.liar.mac, BROADCAST, 0x8863, s.note),
    "spanning tree": lambda s: frames.ethernet(
        s.liar.mac, "01:80:c2:00:00:00", 60, b"\x42\x42\x03" + bytes(35) + s.note
    ),
    "RARP in the victim's name": lambda s: frames.ethernet(s.victim.mac, BROADCAST, frames.RARP, RARP_BODY + s.note),
}

TRUTHS: dict[str, Lie] = {
    "datagram": lambda s: s.udp(),
    "limited broadcast": lambda s: s.shout(),
    "multicast": lambda s: s.udp(to="01:00:5e:00:00:fb", dst="224.0.0.251"),
    "ARP request": lambda s: s.arp(target_ip=s.hearer.address, reply=False),
    "ARP reply": lambda s: s.arp(to=s.hearer.mac, target_ip=s.hearer.address),
    "gratuitous ARP": lambda s: s.arp(),
    "ARP probe of one's own address": lambda s: s.arp(sender_ip="0.0.0.0", reply=False),
    "first fragment": lambda s: s.udp(fragment=0x2000),
    "RARP of one's own": lambda s: frames.ethernet(s.liar.mac, BROADCAST, frames.RARP, RARP_BODY + s.note),
}
