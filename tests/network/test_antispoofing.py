"""What a hostile guest may send, and who gets it. Raw frames out of one guest, raw ears at its neighbours.

Each lie is followed by an honest frame: only when that one has come is the lie said not to have come. The control test
sends the same lies with the packet filter taken away, and hears every one: they are real, and the filter is what stops them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from compute.node.network.names import bridge_name, gateway_mac
from compute.wire import NetworkSpec
from tests.network import frames
from tests.network.frames import BROADCAST
from tests.network.topology import Ear, Guest, Lab, inside, listener, listening, sh

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Stage:
    """An attacker, its victim and a neighbour on one host, and a neighbour on another."""

    lab: Lab
    network: NetworkSpec
    attacker: Guest
    victim: Guest
    near: Guest
    far: Guest


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Iterator[Stage]:
    network = NetworkSpec("00000000-0000-4000-a000-000000000001", 7777, "10.99.0.0/16", "10.99.0.1")
    lab.connect(network)
    here, there = lab.hosts
    guests = [lab.guest(host, lab.nic(network, 2 + n)) for n, host in enumerate((here, here, here, there))]
    # Every bridge knows every guest, so that unicast is not merely flooded.
    for guest in guests:
        assert guest is guests[0] or guests[0].ping(guest.address)
    yield Stage(lab, network, *guests)


Lie = Callable[[Stage, Guest, bytes], bytes]  # stage, receiver, note -> frame


def _lies() -> dict[str, Lie]:
    def udp(source: str, to: str, **fields: object) -> bytes:
        return frames.udp(source, to, **fields)  # type: ignore[arg-type]

    def offer(s: Stage, note: bytes) -> bytes:
        return frames.bootp(op=2, client_mac=s.victim.mac, message=2, note=note, offered=s.attacker.address)

    def arp_lie(
        s: Stage, address: str, note: bytes, *, to: str = BROADCAST, reply: bool = True, sender: str = ""
    ) -> bytes:
        return frames.arp(s.attacker.mac, sender_mac=sender or s.attacker.mac, sender_ip=address, target_ip=address,
                          reply=reply, to=to, note=note)  # fmt: skip

    def honest(s: Stage, r: Guest, note: bytes) -> bytes:
        return udp(s.attacker.mac, r.mac, src=s.attacker.address, dst=r.address, body=note)

    def stolen(s: Stage, r: Guest, note: bytes) -> bytes:
        return udp(s.attacker.mac, r.mac, src=s.victim.address, dst=r.address, body=note)

    return {
        "forged MAC": lambda s, r, n: udp("52:54:00:ee:ee:ee", r.mac, src=s.attacker.address, dst=r.address, body=n),
        "victim's MAC": lambda s, r, n: udp(s.victim.mac, r.mac, src=s.victim.address, dst=r.address, body=n),
        "victim's MAC in a broadcast": lambda s, r, n: udp(
            s.victim.mac, BROADCAST, src=s.attacker.address, dst="255.255.255.255", body=n
        ),
        "gateway's MAC": lambda s, r, n: udp(
            gateway_mac(s.network), BROADCAST, src=s.attacker.address, dst="255.255.255.255", body=n
        ),
        "forged IP": lambda s, r, n: udp(s.attacker.mac, r.mac, src="192.0.2.7", dst=r.address, body=n),
        "victim's IP": stolen,
        "gateway's IP": lambda s, r, n: udp(s.attacker.mac, r.mac, src=s.network.gateway, dst=r.address, body=n),
        "no IP": lambda s, r, n: udp(s.attacker.mac, r.mac, src="0.0.0.0", dst=r.address, body=n),
        "no IP, DHCP ports, to a neighbour": lambda s, r, n: udp(
            s.attacker.mac, r.mac, src="0.0.0.0", dst=r.address, sport=68, dport=67, body=n
        ),
        "ARP reply for the victim": lambda s, r, n: arp_lie(s, s.victim.address, n, to=r.mac),
        "ARP reply for the gateway": lambda s, r, n: arp_lie(s, s.network.gateway, n, to=r.mac),
        "gratuitous ARP for the victim": lambda s, r, n: arp_lie(s, s.victim.address, n),
        "gratuitous ARP request for the victim": lambda s, r, n: arp_lie(s, s.victim.address, n, reply=False),
        "gratuitous ARP for the gateway": lambda s, r, n: arp_lie(s, s.network.gateway, n),
        "ARP with another's MAC inside": lambda s, r, n: arp_lie(s, s.attacker.address, n, sender=s.victim.mac),
        "ARP probe for the victim's address": lambda s, r, n: frames.arp(
            s.attacker.mac, sender_mac=s.attacker.mac, sender_ip="0.0.0.0", target_ip=s.victim.address, reply=False, note=n
        ),
        "ARP of a strange hardware type": lambda s, r, n: frames.ethernet(
            s.attacker.mac, BROADCAST, frames.ARP, struct.pack("!HHBBH", 6, frames.IPV4, 6, 4, 2) + bytes(20) + n
        ),
        "DHCP offer": lambda s, r, n: udp(
            s.attacker.mac, BROADCAST, src=s.attacker.address, dst="255.255.255.255", sport=67, dport=68, body=offer(s, n)
        ),
        "DHCP offer in the gateway's name": lambda s, r, n: udp(
            s.attacker.mac, r.mac, src=s.network.gateway, dst=r.address, sport=67, dport=68, body=offer(s, n)
        ),
        "DHCP offer behind IP options": lambda s, r, n: udp(
            s.attacker.mac, r.mac, src=s.attacker.address, dst=r.address, sport=67, dport=68, body=offer(s, n),
            options=b"\x01\x01\x01\x00",
        ),
        "DHCP offer as a first fragment": lambda s, r, n: udp(
            s.attacker.mac, r.mac, src=s.attacker.address, dst=r.address, sport=67, dport=68, body=offer(s, n), fragment=0x2000
        ),
        "DHCP request": lambda s, r, n: udp(
            s.attacker.mac, BROADCAST, src="0.0.0.0", dst="255.255.255.255", sport=68, dport=67,
            body=frames.bootp(op=1, client_mac=s.attacker.mac, message=1, note=n),
        ),
        "IPv6 router advertisement": lambda s, r, n: frames.ipv6(
            s.attacker.mac, next_header=58, body=bytes([134, 0, 0, 0, 64, 0, 7, 8]) + bytes(8) + n
        ),
        "IPv6 neighbour advertisement": lambda s, r, n: frames.ipv6(
            s.attacker.mac, next_header=58, body=bytes([136, 0, 0, 0]) + bytes(20) + n, to=r.mac
        ),
        "IPv6 datagram": lambda s, r, n: frames.ipv6(s.attacker.mac, next_header=17, body=bytes(8) + n, to=r.mac),
        "stolen IP in VLAN 5": lambda s, r, n: frames.tagged(stolen(s, r, n), vlan=5),
        "stolen IP in a priority tag": lambda s, r, n: frames.tagged(stolen(s, r, n)),
        "stolen IP in two tags": lambda s, r, n: frames.tagged(frames.tagged(stolen(s, r, n)), kind=frames.QINQ),
        "stolen ARP in a priority tag": lambda s, r, n: frames.tagged(arp_lie(s, s.victim.address, n)),
        "honest frame in VLAN 5": lambda s, r, n: frames.tagged(honest(s, r, n), vlan=5),
        "honest frame in a priority tag": lambda s, r, n: frames.tagged(honest(s, r, n)),
        "PPPoE discovery": lambda s, r, n: frames.ethernet(s.attacker.mac, BROADCAST, 0x8863, n),
        "spanning tree": lambda s, r, n: frames.ethernet(
            s.attacker.mac, "01:80:c2:00:00:00", 60, b"\x42\x42\x03" + bytes(35) + n
        ),
        "RARP in the victim's name": lambda s, r, n: frames.ethernet(
            s.victim.mac, BROADCAST, frames.RARP, bytes.fromhex("0001080006040003") + bytes(20) + n
        ),
    }  # fmt: skip


LIES = _lies()


def truth(stage: Stage, receiver: Guest, note: bytes) -> bytes:
    return frames.udp(stage.attacker.mac, receiver.mac, src=stage.attacker.address, dst=receiver.address, body=note)


@pytest.mark.parametrize("receiver", ["near", "far"])
@pytest.mark.parametrize("name", LIES)
def test_lie_is_not_received_by_a_neighbour(stage: Stage, name: str, receiver: str) -> None:
    guest: Guest = getattr(stage, receiver)
    ear = Ear(guest)
    stage.attacker.send(LIES[name](stage, guest, b"LIE!LIE!"))
    stage.attacker.send(truth(stage, guest, b"HONEST!!"))
    assert ear.hears(b"HONEST!!", seconds=2)
    assert not ear.heard(b"LIE!LIE!")
    ear.close()


def test_control_without_the_filter_every_lie_is_received(stage: Stage) -> None:
    host = stage.lab.hosts[0]
    host.run("nft", "delete", "table", "bridge", "cenote")
    try:
        ear = Ear(stage.near)
        for number, (name, lie) in enumerate(LIES.items()):
            note = b"LIE%05d" % number
            stage.attacker.send(lie(stage, stage.near, note))
            assert ear.hears(note, seconds=2), f"{name}: not even received without a filter, so its test proves nothing"
        ear.close()
    finally:
        # The bridge has learnt the forged addresses; the guests' own frames teach it anew.
        host.call("heal")
        for guest in (stage.victim, stage.near):
            assert guest.ping(stage.attacker.address)
        host.run("ip", "link", "set", "dev", bridge_name(stage.network), "type", "bridge", "fdb_flush")
        assert stage.attacker.ping(stage.network.gateway)
        assert stage.attacker.ping(stage.far.address)


def test_what_an_honest_guest_sends_arrives(stage: Stage) -> None:
    a, near = stage.attacker, stage.near
    honest = {
        b"ARP-REQ!": frames.arp(a.mac, sender_mac=a.mac, sender_ip=a.address, target_ip=near.address, reply=False, note=b"ARP-REQ!"),
        b"ARP-ANS!": frames.arp(a.mac, sender_mac=a.mac, sender_ip=a.address, target_ip=near.address, reply=True, to=near.mac, note=b"ARP-ANS!"),
        b"GRATUIT!": frames.arp(a.mac, sender_mac=a.mac, sender_ip=a.address, target_ip=a.address, reply=True, note=b"GRATUIT!"),
        b"PROBE!!!": frames.arp(a.mac, sender_mac=a.mac, sender_ip="0.0.0.0", target_ip=a.address, reply=False, note=b"PROBE!!!"),
        b"BROADCA!": frames.udp(a.mac, BROADCAST, src=a.address, dst="10.99.255.255", body=b"BROADCA!"),
        b"MULTICA!": frames.udp(a.mac, "01:00:5e:00:00:fb", src=a.address, dst="224.0.0.251", body=b"MULTICA!"),
        b"RARP-OK!": frames.ethernet(a.mac, BROADCAST, frames.RARP, bytes.fromhex("0001080006040003") + bytes(20) + b"RARP-OK!"),
    }  # fmt: skip
    for receiver in (near, stage.far):
        ear = Ear(receiver)
        for note, frame in honest.items():
            a.send(frame)
            if note != b"ARP-ANS!" or receiver is near:
                assert ear.hears(note, seconds=2), note
        ear.close()


def test_frames_for_others_are_not_shown(stage: Stage) -> None:
    """A guest hears no unicast that is not its own, even where the bridge knows no better than to send it everywhere."""
    for receiver in (stage.near, stage.far):
        ear = Ear(receiver)
        unknown = frames.udp(
            stage.attacker.mac, "52:54:00:aa:aa:aa", src=stage.attacker.address, dst="10.99.7.7", body=b"SECRET!!"
        )
        stage.attacker.send(unknown)
        stage.attacker.send(truth(stage, receiver, b"HONEST!!"))
        assert ear.hears(b"HONEST!!", seconds=2)
        assert not ear.heard(b"SECRET!!")
        ear.close()


def test_dhcp_in_another_guests_name_is_not_answered(stage: Stage) -> None:
    """Neither asked for nor declined: a forged DECLINE would take the victim's address out of service."""
    a = stage.attacker
    ear, victim_ear = Ear(a), Ear(stage.victim)
    for message in (1, 4):
        forged = frames.bootp(op=1, client_mac=stage.victim.mac, message=message)
        a.send(frames.udp(a.mac, BROADCAST, src="0.0.0.0", dst="255.255.255.255", sport=68, dport=67, body=forged))
    relayed = frames.bootp(op=1, client_mac=a.mac, message=1, relay=a.address)
    a.send(frames.udp(a.mac, BROADCAST, src="0.0.0.0", dst="255.255.255.255", sport=68, dport=67, body=relayed))
    answer = bytes.fromhex("63825363350102")  # the magic number, then: an offer
    assert not ear.hears(answer, seconds=1)
    assert not victim_ear.heard(answer)
    own = frames.bootp(op=1, client_mac=a.mac, message=1)
    a.send(frames.udp(a.mac, BROADCAST, src="0.0.0.0", dst="255.255.255.255", sport=68, dport=67, body=own))
    assert ear.hears(answer, seconds=2)
    ear.close()
    victim_ear.close()


def test_gateway_and_dhcp_stay_on_their_host(stage: Stage) -> None:
    """Neither the search for the gateway nor for a DHCP server is heard on the other host, nor is any answer from there."""
    ear = Ear(stage.far)
    sh("ip", "-n", stage.attacker.namespace, "neigh", "flush", "to", stage.network.gateway)
    assert stage.attacker.ping(stage.network.gateway)
    assert stage.attacker.lease() is not None
    stage.attacker.send(truth(stage, stage.far, b"HONEST!!"))
    assert ear.hears(b"HONEST!!", seconds=2)
    assert not ear.heard(bytes.fromhex(gateway_mac(stage.network).replace(":", "")))
    assert not ear.heard(bytes.fromhex("63825363"))
    asked = frames.mac_bytes(stage.attacker.mac) + bytes([10, 99, 1, 2]) + bytes(6) + bytes([10, 99, 0, 1])
    assert not ear.heard(asked)
    ear.close()


def test_services_of_the_host_are_closed_to_guests_and_guests_open_to_the_host(stage: Stage) -> None:
    host, guest = stage.lab.hosts[0], stage.attacker
    listen = "import socket; s = socket.create_server(('0.0.0.0', 7001)); print('up', flush=True); c, _ = s.accept(); c.send(b'hello')"
    knock = "import socket, sys; s = socket.create_connection((sys.argv[1], 7001), 1); print(s.recv(5).decode())"
    with listening(host.namespace, listen):
        for address in (stage.network.gateway, host.underlay):
            sh("ip", "-n", guest.namespace, "route", "replace", "default", "via", stage.network.gateway)
            assert "hello" not in guest.run("python3", "-c", knock, address, check=False)
        assert "hello" in host.run("python3", "-c", knock, "127.0.0.1"), "the service was there"
    with listening(guest.namespace, listen):
        assert "hello" in host.run("python3", "-c", knock, guest.address)


def test_host_does_not_route_between_guests_and_its_other_networks(stage: Stage) -> None:
    host, guest = stage.lab.hosts[0], stage.attacker
    other = stage.lab.hosts[1]
    host.run("busybox", "sysctl", "-w", "net.ipv4.ip_forward=1")
    other.ip("route", "replace", stage.network.cidr, "via", host.underlay, "metric", "1", "table", "7")
    sh("ip", "-n", guest.namespace, "route", "replace", "default", "via", stage.network.gateway)

    def forwarded() -> bool:
        with inside(other.namespace, lambda: listener("under")) as link:
            guest.send(
                frames.udp(
                    guest.mac, gateway_mac(stage.network), src=guest.address, dst=other.underlay, body=b"ROUTED!!"
                )
            )
            guest.ping(stage.network.gateway)
            link.settimeout(0.5)
            try:
                while b"ROUTED!!" not in link.recv(65536):
                    pass
            except TimeoutError:
                return False
            return True

    assert not forwarded()
    host.run("nft", "delete", "table", "inet", "cenote")
    try:
        assert forwarded(), "control: without the rules the host would route it"
    finally:
        host.call("heal")
        host.run("busybox", "sysctl", "-w", "net.ipv4.ip_forward=0")
    assert not forwarded()


def test_stranger_on_the_underlay_cannot_inject(stage: Stage) -> None:
    """A machine beside the hosts wraps a frame in the network's number and sends it to the VXLAN port."""
    lab, near = stage.lab, stage.near
    name = lab.new_name("stranger")
    sh("ip", "netns", "add", name)
    lab.plug(name, 99, "10.250.0.99/24")
    inner = frames.udp(stage.far.mac, near.mac, src=stage.far.address, dst=near.address, body=b"INJECTED")
    packet = struct.pack("!II", 0x08000000, stage.network.vni << 8) + inner
    send = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes.fromhex('{packet.hex()}'), ('10.250.0.1', 14789))"
    ear = Ear(near)
    sh("nsenter", f"--net=/run/netns/{name}", "python3", "-c", send)
    stage.attacker.send(truth(stage, near, b"HONEST!!"))
    assert ear.hears(b"HONEST!!", seconds=2)
    assert not ear.hears(b"INJECTED", seconds=0.3)
    lab.connect(stage.network)
    lab.hosts[0].call("sync_peers", stage.network, [h.underlay for h in lab.hosts] + ["10.250.0.99"])
    sh("nsenter", f"--net=/run/netns/{name}", "python3", "-c", send)
    assert ear.hears(b"INJECTED", seconds=2), "control: as a peer it can"
    lab.connect(stage.network)
    ear.close()


@pytest.mark.parametrize("device", ["cnpffffffffff1", "vnet7"])
def test_device_nobody_ensured_carries_nothing(stage: Stage, device: str) -> None:
    """A port whose ensure never came, or a device under a foreign name, put into the bridge."""
    nic = stage.lab.nic(stage.network, 200 if device == "vnet7" else 201)
    guest = Guest(stage.lab, stage.lab.hosts[0], nic, device=device)
    guest.configure()
    for receiver in (stage.near, stage.far):
        assert not guest.ping(receiver.address)
    assert guest.lease(tries=1) is None
    guest.unplug()


def test_flushed_rules_are_back_after_heal(stage: Stage) -> None:
    host = stage.lab.hosts[0]
    before = host.run("nft", "-s", "list", "ruleset")
    host.run("nft", "flush", "ruleset")
    host.call("heal")
    assert host.run("nft", "-s", "list", "ruleset") == before


def test_ensuring_any_port_brings_flushed_rules_back(stage: Stage) -> None:
    host = stage.lab.hosts[0]
    before = host.run("nft", "-s", "list", "ruleset")
    host.run("nft", "flush", "ruleset")
    host.call("ensure_port", stage.near.nic)
    assert host.run("nft", "-s", "list", "ruleset") == before
