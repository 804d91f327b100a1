"""What a hostile guest may send, and who gets it. Raw frames out of one guest, raw ears at its neighbours.

Each lie is followed by an honest frame: only when that one has come is the lie said not to have come. The control test
sends the same lies with the packet filter taken away and hears every one: the filter is what stops them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from compute.node.network.names import bridge_name, gateway_mac
from compute.wire import NetworkSpec
from tests.network import frames
from tests.network.frames import BROADCAST
from tests.network.lies import LIES, TRUTHS, Scene
from tests.network.namespaces import listening, raw_socket, sh
from tests.network.topology import Ear, Guest, Lab

pytestmark = pytest.mark.lab

LISTEN = """
import socket
service = socket.create_server(("0.0.0.0", 7001))
print("up", flush=True)
service.accept()[0].send(b"hello")
"""
KNOCK = "import socket, sys; print(socket.create_connection((sys.argv[1], 7001), 1).recv(5).decode())"
SEND = """
import socket, sys
socket.socket(type=socket.SOCK_DGRAM).sendto(bytes.fromhex(sys.argv[1]), ("10.250.0.1", 14789))
"""


@dataclass(frozen=True)
class Stage:
    """An attacker, its victim and a neighbour on one host, and a neighbour on another."""

    lab: Lab
    network: NetworkSpec
    attacker: Guest
    victim: Guest
    near: Guest
    far: Guest

    def scene(self, hearer: Guest, note: bytes) -> Scene:
        return Scene(self.network, self.attacker, self.victim, hearer, note)

    def truth(self, hearer: Guest) -> bytes:
        return self.scene(hearer, b"HONEST!!").udp()


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    network = NetworkSpec("00000000-0000-4000-a000-000000000001", 7777, "10.99.0.0/16", "10.99.0.1")
    lab.connect(network)
    here, there = lab.hosts
    guests = [lab.guest(host, lab.nic(network, 2 + n)) for n, host in enumerate((here, here, here, there))]
    # Every bridge knows every guest, so that unicast is not merely flooded.
    for guest in guests:
        assert guest is guests[0] or guests[0].ping(guest.address)
    return Stage(lab, network, *guests)


@pytest.mark.parametrize("receiver", ["near", "far"])
@pytest.mark.parametrize("name", LIES)
def test_lie_is_not_received_by_a_neighbour(stage: Stage, name: str, receiver: str) -> None:
    guest: Guest = getattr(stage, receiver)
    ear = Ear(guest)
    stage.attacker.send(LIES[name](stage.scene(guest, b"LIE!LIE!")))
    stage.attacker.send(stage.truth(guest))
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
            stage.attacker.send(lie(stage.scene(stage.near, note)))
            assert ear.hears(note, seconds=2), f"{name}: not even received without a filter, so its test proves nothing"
        ear.close()
    finally:
        host.call("heal")
        # Bridge and guests have learnt forged addresses: they must forget them before the next test.
        for guest in (stage.attacker, stage.victim, stage.near, stage.far):
            sh("ip", "-n", guest.namespace, "neigh", "flush", "all")
        host.run("ip", "link", "set", "dev", bridge_name(stage.network), "type", "bridge", "fdb_flush")
        for address in (stage.network.gateway, stage.victim.address, stage.near.address, stage.far.address):
            assert stage.attacker.ping(address)


@pytest.mark.parametrize("receiver", ["near", "far"])
@pytest.mark.parametrize("name", TRUTHS)
def test_what_an_honest_guest_sends_is_received(stage: Stage, name: str, receiver: str) -> None:
    guest: Guest = getattr(stage, receiver)
    ear = Ear(guest)
    stage.attacker.send(TRUTHS[name](stage.scene(guest, b"HONEST!!")))
    assert ear.hears(b"HONEST!!", seconds=2)
    ear.close()


def test_frames_for_others_are_not_shown(stage: Stage) -> None:
    """A guest hears no unicast but its own, even where the bridge knows no better than to send it everywhere."""
    for receiver in (stage.near, stage.far):
        ear = Ear(receiver)
        secret = stage.scene(receiver, b"SECRET!!").udp(to="52:54:00:aa:aa:aa", dst="10.99.7.7")
        stage.attacker.send(secret)
        stage.attacker.send(stage.truth(receiver))
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
    """Neither the search for the gateway nor for a DHCP server is heard on the other host."""
    ear = Ear(stage.far)
    sh("ip", "-n", stage.attacker.namespace, "neigh", "flush", "to", stage.network.gateway)
    assert stage.attacker.ping(stage.network.gateway)
    assert stage.attacker.lease() is not None
    stage.attacker.send(stage.truth(stage.far))
    assert ear.hears(b"HONEST!!", seconds=2)
    assert not ear.heard(bytes.fromhex(gateway_mac(stage.network).replace(":", "")))
    assert not ear.heard(bytes.fromhex("63825363"))
    asked = frames.mac_bytes(stage.attacker.mac) + bytes([10, 99, 1, 2]) + bytes(6) + bytes([10, 99, 0, 1])
    assert not ear.heard(asked)
    ear.close()


def test_services_of_the_host_are_closed_to_guests_and_guests_open_to_the_host(stage: Stage) -> None:
    host, guest = stage.lab.hosts[0], stage.attacker
    with listening(host.namespace, LISTEN):
        for address in (stage.network.gateway, host.underlay):
            sh("ip", "-n", guest.namespace, "route", "replace", "default", "via", stage.network.gateway)
            assert "hello" not in guest.run("python3", "-c", KNOCK, address, check=False)
        assert "hello" in host.run("python3", "-c", KNOCK, "127.0.0.1"), "the service was there"
    with listening(guest.namespace, LISTEN):
        assert "hello" in host.run("python3", "-c", KNOCK, guest.address)


def test_host_does_not_route_between_guests_and_its_other_networks(stage: Stage) -> None:
    host, guest = stage.lab.hosts[0], stage.attacker
    other = stage.lab.hosts[1]
    host.run("busybox", "sysctl", "-w", "net.ipv4.ip_forward=1")
    other.ip("route", "replace", stage.network.cidr, "via", host.underlay, "metric", "1", "table", "7")
    sh("ip", "-n", guest.namespace, "route", "replace", "default", "via", stage.network.gateway)

    def forwarded() -> bool:
        with raw_socket(other.namespace, "under") as link:
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
    ear = Ear(near)
    sh("nsenter", f"--net=/run/netns/{name}", "python3", "-c", SEND, packet.hex())
    stage.attacker.send(stage.truth(near))
    assert ear.hears(b"HONEST!!", seconds=2)
    assert not ear.hears(b"INJECTED", seconds=0.3)
    lab.connect(stage.network)
    lab.hosts[0].call("sync_peers", stage.network, [h.underlay for h in lab.hosts] + ["10.250.0.99"])
    sh("nsenter", f"--net=/run/netns/{name}", "python3", "-c", SEND, packet.hex())
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
