"""PortManager on two hosts made of namespaces: addresses, the layer 2 across hosts, repair, removal."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from pathlib import Path

import pytest

from compute.node.drivers.base import Never, RetryLater
from compute.node.network.names import bridge_name, gateway_mac, vxlan_name
from compute.node.network.records import find_port
from compute.wire import NetworkSpec, NicSpec
from tests.network.topology import Guest, Host, Lab

pytestmark = pytest.mark.lab


def picture(host: Host) -> tuple[object, ...]:
    """All that the product makes on a host, as the kernel tells it, without counters."""
    rules = host.run("nft", "-s", "list", "ruleset")
    links = [line for line in host.ip("-o", "address").splitlines() if " cnb" in line or " cnv" in line]
    devices = [line.split("@")[0].split()[:2] for line in host.ip("-o", "link").splitlines()]
    return rules, links, devices, sorted(host.dnsmasq_pids())


def test_guest_gets_the_address_of_its_port_by_dhcp(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    nic = lab.nic(network, 7)
    host.call("ensure_port", nic)
    lease = Guest(lab, host, nic).lease()
    assert lease is not None
    assert lease["ip"] == nic.address
    assert lease["mask"] == "16"
    assert lease["router"] == network.gateway
    assert lease["mtu"] == "1450"
    assert lease["serverid"] == network.gateway
    assert int(lease["lease"]) == 7 * 86400
    assert "dns" not in lease


def test_dhcp_names_the_dns_servers_of_the_network(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    nic = lab.nic(dataclasses.replace(network, dns=("9.9.9.9", "1.1.1.1")), 7)
    host.call("ensure_port", nic)
    lease = Guest(lab, host, nic).lease()
    assert lease is not None
    assert lease["dns"] == "9.9.9.9 1.1.1.1"


def test_dhcp_serves_only_the_ports_of_its_own_host(lab: Lab, network: NetworkSpec) -> None:
    here, there = lab.hosts
    nic = lab.nic(network, 8)
    here.call("ensure_port", nic)
    guest = Guest(lab, here, nic)
    assert guest.lease() is not None
    here.call("remove_port", nic.device)
    there.call("ensure_port", nic)
    assert guest.lease(tries=2) is None


def test_guests_on_two_hosts_reach_each_other_at_full_mtu(lab: Lab, network: NetworkSpec) -> None:
    left, right = (lab.guest(host, lab.nic(network, 10 + i)) for i, host in enumerate(lab.hosts))
    assert left.ping(right.address)
    assert right.ping(left.address, size=network.mtu - 28)
    assert left.neighbour(right.address) == right.mac


def test_gateway_is_each_hosts_own_with_one_mac(lab: Lab, network: NetworkSpec) -> None:
    for number, host in enumerate(lab.hosts):
        guest = lab.guest(host, lab.nic(network, 20 + number))
        assert guest.ping(network.gateway)
        assert guest.neighbour(network.gateway) == gateway_mac(network)
    # The gateway of the host is the one that answers: with the local one gone there is no other.
    lab.hosts[0].ip("address", "flush", "dev", bridge_name(network))
    first = lab.guest(lab.hosts[0], lab.nic(network, 22))
    assert not first.ping(network.gateway)
    lab.hosts[0].call("heal")
    assert first.ping(network.gateway)


def test_guest_keeps_address_and_gateway_when_it_moves(lab: Lab, network: NetworkSpec) -> None:
    here, there = lab.hosts
    mover, stayer = lab.guest(here, lab.nic(network, 30)), lab.guest(here, lab.nic(network, 31))
    far = lab.guest(there, lab.nic(network, 32))
    assert stayer.ping(mover.address)
    assert far.ping(mover.address)
    there.call("ensure_port", mover.nic)
    mover.unplug()
    mover.plug(there)
    mover.configure()
    there.call("announce_port", mover.nic.device)
    here.call("remove_port", mover.nic.device)
    assert stayer.ping(mover.address)
    assert far.ping(mover.address)
    assert mover.ping(network.gateway)
    lease = mover.lease()
    assert lease is not None
    assert lease["ip"] == mover.address


def test_announcement_moves_what_other_hosts_have_learnt(lab: Lab, network: NetworkSpec) -> None:
    here, there = lab.hosts
    third = lab.guest(there, lab.nic(network, 35))
    mover = lab.guest(here, lab.nic(network, 36))
    assert third.ping(mover.address)
    learnt = there.run("bridge", "fdb", "show", "dev", vxlan_name(network))
    assert f"{mover.mac} dst {here.underlay}" in learnt
    # As if the guest had lived on another host before: the entry there points to where it no longer is.
    there.run(
        "bridge", "fdb", "replace", mover.mac, "dev", vxlan_name(network), "dst", "10.250.0.99", "self", "dynamic"
    )
    here.call("announce_port", mover.nic.device)
    deadline = time.monotonic() + 2
    while f"{mover.mac} dst {here.underlay}" not in there.run("bridge", "fdb", "show", "dev", vxlan_name(network)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_removed_port_carries_nothing(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    gone, other = lab.guest(host, lab.nic(network, 40)), lab.guest(host, lab.nic(network, 41))
    assert gone.ping(other.address)
    host.call("remove_port", gone.nic.device)
    assert not gone.ping(other.address)
    assert not other.ping(gone.address)
    assert gone.lease(tries=2) is None
    host.call("remove_port", gone.nic.device)
    host.call("ensure_port", gone.nic)
    assert gone.ping(other.address)


def test_address_goes_to_a_new_owner_at_once(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    old = lab.nic(network, 45)
    host.call("ensure_port", old)
    first = Guest(lab, host, old)
    assert first.lease() is not None
    host.call("remove_port", old.device)
    first.unplug()
    new = dataclasses.replace(lab.nic(network, 46), address=old.address)
    host.call("ensure_port", new)
    lease = Guest(lab, host, new).lease()
    assert lease is not None
    assert lease["ip"] == old.address


def test_ensuring_twice_changes_nothing(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    nic = lab.nic(network, 50)
    host.call("ensure_port", nic)
    before = picture(host)
    host.call("ensure_port", nic)
    host.call("ensure_network", network)
    host.call("sync_peers", network, [h.underlay for h in lab.hosts])
    host.call("heal")
    assert picture(host) == before


def test_killed_dhcp_server_is_back_at_the_next_ensure(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    nic = lab.nic(network, 55)
    host.call("ensure_port", nic)
    guest = Guest(lab, host, nic)
    pid = int((host.run_dir / network.id / "dnsmasq.pid").read_text())
    os.kill(pid, 9)
    host.call("ensure_port", nic)
    assert int((host.run_dir / network.id / "dnsmasq.pid").read_text()) != pid
    assert guest.lease() is not None


def test_pid_of_another_process_is_never_signalled(lab: Lab, network: NetworkSpec) -> None:
    """The pid file names the same program with the same arguments, but in another host's namespace."""
    here, there = lab.hosts
    theirs = int((there.run_dir / network.id / "dnsmasq.pid").read_text())
    file = here.run_dir / network.id / "dnsmasq.pid"
    ours = int(file.read_text())
    file.write_text(f"{theirs}\n")
    here.call("ensure_port", lab.nic(network, 56))
    assert theirs in there.dnsmasq_pids()
    assert ours not in here.dnsmasq_pids(), "the server whose pid file was lost has been replaced, not doubled"
    assert int(file.read_text()) in here.dnsmasq_pids()


def test_reboot_is_undone_by_restore(lab: Lab, network: NetworkSpec) -> None:
    here, there = lab.hosts
    nic = lab.nic(network, 60)
    guest, far = lab.guest(here, nic), lab.guest(there, lab.nic(network, 61))
    assert guest.ping(far.address)
    here.reboot()
    assert here.call("list_ports") == ()
    here.call("restore", [network], [h.underlay for h in lab.hosts], [nic])
    guest.plug(here)
    guest.configure()
    assert guest.ping(far.address)
    assert guest.lease() is not None
    assert here.call("find_port", nic.address).device == nic.device


def test_deleted_bridge_comes_back_with_its_ports(lab: Lab, network: NetworkSpec) -> None:
    here, there = lab.hosts
    guest, far = lab.guest(here, lab.nic(network, 62)), lab.guest(there, lab.nic(network, 63))
    here.ip("link", "delete", bridge_name(network))
    assert not guest.ping(far.address)
    here.call("heal")
    assert guest.ping(far.address)
    assert guest.lease() is not None


def test_hosts_leave_and_come(lab: Lab, network: NetworkSpec) -> None:
    here, there = lab.hosts
    left, right = lab.guest(here, lab.nic(network, 65)), lab.guest(there, lab.nic(network, 66))
    here.call("sync_peers", network, [here.underlay])
    there.call("sync_peers", network, [there.underlay])
    assert not left.ping(right.address)
    lab.connect(network)
    assert left.ping(right.address)


def test_network_is_removed_without_a_trace_when_empty(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    nic = lab.nic(network, 70)
    host.call("ensure_port", nic)
    with pytest.raises(RetryLater) as caught:
        host.call("remove_network", network.id)
    assert caught.value.code == "network_in_use"
    host.call("remove_port", nic.device)
    host.call("remove_network", network.id)
    host.call("remove_network", network.id)
    assert bridge_name(network) not in host.ip("link")
    assert vxlan_name(network) not in host.ip("link")
    assert not (host.run_dir / network.id).exists()
    assert bridge_name(network) not in host.run("nft", "list", "ruleset")
    assert network.gateway not in host.run("nft", "list", "ruleset")


def test_others_things_on_the_host_are_left_alone(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    host.ip("link", "add", "cnb0foreign", "type", "bridge")
    host.run("nft", "add table bridge theirs; add chain bridge theirs c { type filter hook forward priority 0; }")
    theirs = host.run("nft", "-s", "list", "table", "bridge", "theirs")
    host.call("ensure_port", lab.nic(network, 75))
    host.call("heal")
    host.call("remove_port", lab.nic(network, 75).device)
    host.call("remove_network", network.id)
    assert "cnb0foreign" in host.ip("link")
    assert host.run("nft", "-s", "list", "table", "bridge", "theirs") == theirs
    host.ip("link", "delete", "cnb0foreign")
    host.run("nft", "delete", "table", "bridge", "theirs")


def test_two_ports_never_share_an_address(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    first = lab.guest(host, lab.nic(network, 80))
    second = dataclasses.replace(lab.nic(network, 81), address=first.address)
    with pytest.raises(RetryLater) as caught:
        host.call("ensure_port", second)
    assert caught.value.code == "address_in_use"
    assert first.ping(network.gateway)
    first.unplug()
    host.call("ensure_port", second)
    heir = Guest(lab, host, second)
    heir.configure()
    assert heir.ping(network.gateway)
    assert host.call("find_port", first.address).device == second.device
    assert f'"{first.device}"' not in host.run("nft", "list", "ruleset")


def test_restore_forgets_only_what_is_long_gone(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    hosts = [h.underlay for h in lab.hosts]
    manager = host.add_worker(dataclasses.replace(host.settings, leftover_seconds=0.3))

    def restore(*nics: NicSpec) -> set[str]:
        manager.send("restore", [network], hosts, list(nics))
        manager.answer()
        return {port.device for port in host.call("list_ports")}

    gone, fresh, wanted = (lab.nic(network, number) for number in (86, 87, 88))
    alive = lab.guest(host, lab.nic(network, 89))
    host.call("ensure_port", gone)
    host.call("ensure_port", wanted)
    assert restore(wanted) >= {gone.device, wanted.device, alive.device}, "an answer may be older than an ensure"
    time.sleep(0.4)
    host.call("ensure_port", fresh)
    left = restore(wanted)
    assert gone.device not in left
    assert left >= {fresh.device, wanted.device, alive.device}
    assert f'"{gone.device}"' not in host.run("nft", "list", "ruleset")
    manager.end()


def test_a_network_is_reached_while_its_bridge_and_its_tunnel_are_up(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    host.call("ensure_network", network)
    assert network.id in host.call("reached")
    for damage in (
        ("link", "set", vxlan_name(network), "down"),
        ("link", "set", vxlan_name(network), "nomaster"),
        ("link", "set", bridge_name(network), "down"),
        ("link", "delete", vxlan_name(network)),
    ):
        host.ip(*damage)
        assert network.id not in host.call("reached")
        host.call("ensure_network", network)
        assert network.id in host.call("reached")


def test_network_larger_than_the_underlay_is_refused(lab: Lab) -> None:
    spec = NetworkSpec("00000000-0000-4000-9000-000000000001", 9001, "10.201.0.0/16", "10.201.0.1", mtu=1451)
    with pytest.raises(Never) as caught:
        lab.hosts[0].call("ensure_network", spec)
    assert caught.value.code == "underlay_mtu"
    lab.hosts[0].call("remove_network", spec.id)


def test_directory_closed_to_the_dhcp_server_is_told(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    os.kill(int((host.run_dir / network.id / "dnsmasq.pid").read_text()), 9)
    host.run_dir.chmod(0o700)
    try:
        with pytest.raises(RetryLater) as caught:
            host.call("ensure_port", lab.nic(network, 83))
        assert caught.value.code == "dhcp_unreadable"
    finally:
        host.run_dir.chmod(0o755)
    host.call("ensure_port", lab.nic(network, 83))


def test_port_found_by_address(lab: Lab, network: NetworkSpec) -> None:
    host, nic = lab.hosts[1], lab.nic(network, 85)
    host.call("ensure_port", nic)
    found = find_port(host.run_dir, nic.address)
    assert found is not None
    assert (found.device, found.mac, found.network_id) == (nic.device, nic.mac, network.id)
    assert find_port(lab.hosts[0].run_dir, nic.address) is None


def test_worker_killed_anywhere_in_ensure_port_is_made_good_by_the_next_call(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    nic = lab.nic(network, 90)
    for programs_run in range(100):
        for port in host.call("list_ports"):
            host.call("remove_port", port.device)
        host.call("remove_network", network.id)
        killed = host.call_and_die(programs_run, "ensure_port", nic)
        host.call("ensure_port", nic)
        host.call("sync_peers", network, [h.underlay for h in lab.hosts])
        if not killed:
            break
        now = picture(host)
        host.call("heal")
        assert picture(host) == now, f"killed instead of program {programs_run}: the next call left something undone"
        ours = [pid for pid in host.dnsmasq_pids() if network.id in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(ours) == 1
    assert programs_run > 8
    assert Guest(lab, host, nic).lease() is not None


def test_worker_killed_anywhere_in_remove_port_is_made_good_by_the_next_call(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    nic = lab.nic(network, 91)
    before = picture(host)
    for programs_run in range(100):
        host.call("ensure_port", nic)
        killed = host.call_and_die(programs_run, "remove_port", nic.device)
        host.call("remove_port", nic.device)
        assert picture(host) == before
        if not killed:
            break
    assert programs_run > 0


def test_many_ports_at_once(lab: Lab, network: NetworkSpec) -> None:
    """Several processes of a host at work: nothing is lost."""
    host = lab.hosts[0]
    nics = [lab.nic(network, 400 + n) for n in range(24)]
    workers = [host.add_worker() for _ in range(4)]
    for number, nic in enumerate(nics):
        workers[number % 4].send("ensure_port", nic)
    for number in range(len(nics)):
        workers[number % 4].answer()
    for worker in workers:
        worker.end()
    assert {port.device for port in host.call("list_ports")} >= {nic.device for nic in nics}
    rules = host.run("nft", "list", "ruleset")
    assert all(f'"{nic.device}" . {nic.mac} . {nic.address}' in rules for nic in nics)


def test_ensure_port_is_quick(lab: Lab, network: NetworkSpec) -> None:
    host = lab.hosts[0]
    times = [host.timed("ensure_port", lab.nic(network, 300 + n)) for n in range(60)]
    print(f"ensure_port: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms")
    assert statistics.median(times) < 30
