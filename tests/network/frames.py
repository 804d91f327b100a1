"""Ethernet frames built by hand, so that a test can say exactly the lie that it tells."""

from __future__ import annotations

import socket
import struct

BROADCAST = "ff:ff:ff:ff:ff:ff"
IPV4, ARP, VLAN, QINQ, IPV6, RARP = 0x0800, 0x0806, 0x8100, 0x88A8, 0x86DD, 0x8035


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, destination: str, kind: int, body: bytes) -> bytes:
    return (mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", kind) + body).ljust(60, b"\0")


def tagged(frame: bytes, *, vlan: int = 0, kind: int = VLAN) -> bytes:
    """Insert a VLAN tag into a frame. 0 is a priority tag, which many receivers read as untagged."""
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def arp(
    source: str, *, sender_mac: str, sender_ip: str, target_ip: str, reply: bool, to: str = BROADCAST, note: bytes = b""
) -> bytes:
    """`note` goes behind the ARP body, where Ethernet's padding is: it tells frames apart at the receiver."""
    body = struct.pack("!HHBBH", 1, IPV4, 6, 4, 2 if reply else 1)
    body += mac_bytes(sender_mac) + socket.inet_aton(sender_ip)
    body += (mac_bytes(to) if reply else bytes(6)) + socket.inet_aton(target_ip)
    return ethernet(source, to, ARP, body + note)


def ipv4(
    source: str, to: str, *, src: str, dst: str, protocol: int, body: bytes, options: bytes = b"", fragment: int = 0
) -> bytes:
    words = 5 + len(options) // 4
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, words * 4 + len(body), 7, fragment, 64, protocol, 0)
    header += socket.inet_aton(src) + socket.inet_aton(dst) + options
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return ethernet(source, to, IPV4, header + body)


def udp(
    source: str,
    to: str,
    *,
    src: str,
    dst: str,
    sport: int = 4000,
    dport: int = 4001,
    body: bytes,
    options: bytes = b"",
    fragment: int = 0,
) -> bytes:
    payload = struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body
    return ipv4(source, to, src=src, dst=dst, protocol=17, body=payload, options=options, fragment=fragment)


def bootp(
    *, op: int, client_mac: str, message: int, relay: str = "0.0.0.0", note: bytes = b"", offered: str = ""
) -> bytes:
    """A DHCP message. `message`: 1 DISCOVER, 2 OFFER, 4 DECLINE; `note` is the server's name field."""
    head = struct.pack("!BBBBIHH", op, 1, 6, 0, 0xCE407E, 0, 0x8000) + bytes(4)
    head += socket.inet_aton(offered or "0.0.0.0") + bytes(4) + socket.inet_aton(relay)
    head += mac_bytes(client_mac).ljust(16, b"\0") + note.ljust(64, b"\0") + bytes(128)
    return head + bytes.fromhex("63825363") + bytes([53, 1, message, 255])


def ipv6(source: str, *, next_header: int, body: bytes, to: str = "33:33:00:00:00:01") -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(socket.AF_INET6, "ff02::1")
    return ethernet(source, to, IPV6, struct.pack("!IHBB", 6 << 28, len(body), next_header, 255) + addresses + body)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
