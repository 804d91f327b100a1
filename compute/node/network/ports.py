"""The door to this host's networks. Every method is an *ensure*: it does what is missing and may be called again.

Order inside what adds: the wish goes to the state file, then the packet filter is changed, then devices and DHCP; what
removes goes the other way round. So the kernel never lets through more than the file says, nothing carries a frame
before its rules are there, and a call that died anywhere is finished by calling it again.

Errors are the driver contract's: RetryLater, Never, Unknown.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Iterable

from compute.node.drivers.base import DriverError, Never, RetryLater
from compute.node.network import links, names, rules
from compute.node.network.dhcp import DhcpServer
from compute.node.network.programs import run
from compute.node.network.records import NetworkRecord, PortRecord, Records, State, find_port
from compute.node.network.settings import NetworkSettings
from compute.wire import NetworkSpec, NicSpec


class PortManager:
    """Networks and ports of the host (network namespace) that this process runs in. Needs CAP_NET_ADMIN."""

    def __init__(self, settings: NetworkSettings) -> None:
        if settings.underlay_address:
            names.check_address(settings.underlay_address)
        self._settings = settings
        self._records = Records(settings.run_dir, settings.lock_seconds)
        self._idle_since: dict[str, float] = {}

    # -- networks

    @staticmethod
    def bridge_name(network: NetworkSpec) -> str:
        """Return the bridge to which the hypervisor must connect the network's ports. The same on every host."""
        return names.bridge_name(network)

    def ensure_network(self, network: NetworkSpec) -> None:
        """Ensure bridge, gateway address, VXLAN device, packet filter and DHCP server, each whole, for this network.

        Peers stay as they were. Raises Never("network_invalid" | "network_conflict" | "underlay_mtu" | "device_taken").
        """
        names.check_network(network)
        with self._records.locked():
            state = _admit(self._records.read(), network)
            self._records.write(state)
            self._filter(state)
            self._build(state, network.id)

    def sync_peers(self, network: NetworkSpec, addresses: Iterable[str]) -> None:
        """Ensure that the network reaches exactly these hosts (underlay addresses; one's own may be among them)."""
        names.check_network(network)
        peers = self._peers(addresses)
        with self._records.locked():
            state = _admit(self._records.read(), network)
            state = state.with_network(NetworkRecord(network, peers))
            self._records.write(state)
            self._filter(state)
            self._build(state, network.id)

    def remove_network(self, network_id: str) -> None:
        """Ensure that nothing of the network is left here. Raises RetryLater("network_in_use") while it has ports."""
        with self._records.locked():
            state = self._records.read()
            record = state.networks.get(network_id)
            if record is None:
                return
            if ports := state.ports_of(network_id):
                raise RetryLater("network_in_use", f"network {network_id} has {len(ports)} ports on this host")
            # Devices go first, while their rules still hold; the record last, so that a crash here can be finished.
            self._server(network_id).remove()
            links.remove_links(record.spec)
            state = state.without_network(network_id)
            self._filter(state)
            self._records.write(state)

    # -- ports

    def ensure_port(self, nic: NicSpec) -> None:
        """Ensure that a guest behind `nic.device` can use its MAC and address and nothing else. Builds its network.

        Called before the hypervisor makes the device: every frame of a device that was not ensured is dropped.
        Raises Never("port_invalid") and what ensure_network does, RetryLater("address_in_use") while another port
        has the address or the MAC.
        """
        port = _record(nic)
        with self._records.locked():
            before = self._records.read()
            cleared = _admit(before, nic.network)
            for rival in _rivals(cleared, port):
                # The control plane gives an address away once it is free: a rival without a device is a leftover.
                if links.index_of(rival.device):
                    raise _in_use(port, [rival])
                cleared = cleared.without_port(rival.device)
            state = cleared.with_port(port)
            if state != before:
                self._records.write(state)
            known = cleared == before and self._is_built(nic.network)
            if known and before.ports.get(nic.device, port) == port:
                self._filter(state, change=rules.port_added(port, vxlan_port=self._settings.vxlan_port))
                self._serve(state, nic.network)
            else:
                self._filter(state)
                self._build(state, nic.network.id)

    def announce_port(self, device: str) -> None:
        """Tell the other hosts that this port's guest runs here now.

        For the moment after a guest has arrived by migration (never before: traffic would leave the source too early),
        or was started on another host than last time. An unknown port is not an error: the guest may be gone.
        """
        names.check_device(device)
        state = self._records.read()
        port = state.ports.get(device)
        if port and port.network_id in state.networks:
            links.announce(state.networks[port.network_id].spec, device=device, mac=port.mac)

    def remove_port(self, device: str) -> None:
        """Ensure that no frame of this device passes and its address is free again.

        The device itself is the hypervisor's to delete.
        """
        names.check_device(device)
        with self._records.locked():
            before = self._records.read()
            port, state = before.ports.get(device), before.without_port(device)
            if port is None:
                return
            # The record last: were it first, a crash in between would leave rules that no later call knows of.
            self._filter(state, change=rules.port_removed(port, vxlan_port=self._settings.vxlan_port))
            network = state.networks.get(port.network_id)
            if network and self._is_built(network.spec):
                self._serve(state, network.spec)
            self._records.write(state)

    def list_ports(self) -> tuple[PortRecord, ...]:
        """Return this host's ports in order of device name. Takes no lock."""
        ports = self._records.read().ports
        return tuple(ports[device] for device in sorted(ports))

    def reached(self) -> tuple[str, ...] | None:
        """Return the ids of the networks whose bridge is up, and whose tunnel to other hosts is up in it. Takes no lock.

        None before this host has been told of any, as after a reboot.
        """
        records = self._records.read().networks
        if not records:
            return None
        seen, tunnel = links.seen(), bool(self._settings.underlay_address)
        return tuple(key for key in sorted(records) if links.is_whole(records[key].spec, seen, tunnel=tunnel))

    def find_port(self, address: str) -> PortRecord | None:
        """Return the port on this host that has the address, or None. Takes no lock."""
        return find_port(self._settings.run_dir, address)

    # -- the whole

    def restore(self, networks: Iterable[NetworkSpec], addresses: Iterable[str], ports: Iterable[NicSpec]) -> None:
        """Bring back what nodeapi's `GET network` says, after a reboot or a start.

        `addresses` are the underlay addresses of all hosts. It adds and mends; it takes away only ports that have had
        no device and no place in the answers for a minute, since an answer may be older than a port that was ensured
        or removed meanwhile. One bad item does not hinder the others; the first error is raised at the end.
        """
        errors: list[DriverError] = []
        peers, wanted = self._peers(addresses), tuple(ports)
        with self._records.locked():
            state = self._without_leftovers(self._records.read(), {nic.device for nic in wanted})
            for network in networks:
                try:
                    names.check_network(network)
                    state = _admit(state, network).with_network(NetworkRecord(network, peers))
                except DriverError as error:
                    errors.append(error)
            for nic in wanted:
                try:
                    port = _record(nic)
                    state = _admit(state, nic.network)
                    if rivals := _rivals(state, port):
                        raise _in_use(port, rivals)
                    state = state.with_port(port)
                except DriverError as error:
                    errors.append(error)
            self._records.write(state)
            errors += self._mend(state)
        if errors:
            raise errors[0]

    def heal(self) -> None:
        """Ensure all that the state file says: rules (flushed by somebody), devices, DHCP servers. For a slow sweep."""
        with self._records.locked():
            state = self._records.read()
            errors = self._mend(state) if state.networks else []
        if errors:
            raise errors[0]

    # -- parts; all run under the lock

    def _without_leftovers(self, state: State, wanted: set[str]) -> State:
        now = time.monotonic()
        idle = {device for device in state.ports if device not in wanted and not links.index_of(device)}
        self._idle_since = {device: self._idle_since.get(device, now) for device in idle}
        for device, since in self._idle_since.items():
            if now - since > self._settings.leftover_seconds:
                state = state.without_port(device)
        return state

    def _mend(self, state: State) -> list[DriverError]:
        errors: list[DriverError] = []
        self._filter(state)
        for network_id in sorted(state.networks):
            try:
                self._build(state, network_id)
            except DriverError as error:
                errors.append(error)
        return errors

    def _build(self, state: State, network_id: str) -> None:
        record = state.networks[network_id]
        links.ensure_bridge(record.spec)
        if self._settings.underlay_address:
            links.ensure_vxlan(record.spec, underlay=self._settings.underlay_address, port=self._settings.vxlan_port)
            links.ensure_peers(record.spec, record.peers)
        bridge = names.bridge_name(record.spec)
        links.ensure_attached({port.device: bridge for port in state.ports_of(network_id)})
        self._serve(state, record.spec)

    def _is_built(self, network: NetworkSpec) -> bool:
        has_vxlan = not self._settings.underlay_address or links.index_of(names.vxlan_name(network))
        return bool(links.index_of(names.bridge_name(network)) and has_vxlan)

    def _serve(self, state: State, network: NetworkSpec) -> None:
        index = links.index_of(names.bridge_name(network))
        self._server(network.id).ensure(network, state.ports_of(network.id), bridge_index=index)

    def _server(self, network_id: str) -> DhcpServer:
        return DhcpServer(network_id, self._settings)

    def _filter(self, state: State, *, change: str = "") -> None:
        """Make the kernel's rules say what `state` says, in one transaction: `change` where that is enough."""
        if change:
            try:
                run("nft", "-f", "-", stdin=change)
                return
            except RetryLater:
                pass  # no tables, or those of another release: nothing was changed, and the whole is put in their place
        run("nft", "-f", "-", stdin=rules.full_ruleset(state, vxlan_port=self._settings.vxlan_port))

    def _peers(self, addresses: Iterable[str]) -> tuple[str, ...]:
        peers = {address for address in addresses if address != self._settings.underlay_address}
        for peer in peers:
            names.check_address(peer)
        if peers and not self._settings.underlay_address:
            raise Never("underlay_missing", "this host has peers but no underlay address")
        return tuple(sorted(peers))


def _admit(state: State, network: NetworkSpec) -> State:
    """Return the state with this network in it (its peers kept). Raises Never("network_conflict") beside a rival's."""
    mine = ipaddress.IPv4Network(network.cidr)
    for record in state.networks.values():
        if record.spec.id == network.id:
            if record.spec.vni != network.vni:
                raise Never("network_conflict", f"network {network.id} has vni {record.spec.vni}, not {network.vni}")
        elif record.spec.vni == network.vni:
            raise Never("network_conflict", f"vni {network.vni} is taken by network {record.spec.id}")
        elif mine.overlaps(ipaddress.IPv4Network(record.spec.cidr)):
            # The host itself has an address in each: with overlapping ranges it could not tell the networks apart.
            raise Never("network_conflict", f"{mine} overlaps network {record.spec.id}, {record.spec.cidr}")
    known = state.networks.get(network.id)
    return state.with_network(NetworkRecord(network) if known is None else dataclasses.replace(known, spec=network))


def _rivals(state: State, port: PortRecord) -> tuple[PortRecord, ...]:
    return tuple(
        other
        for other in state.ports_of(port.network_id)
        if other.device != port.device and (other.address == port.address or other.mac == port.mac)
    )


def _in_use(port: PortRecord, rivals: Iterable[PortRecord]) -> RetryLater:
    devices = ", ".join(rival.device for rival in rivals)
    return RetryLater("address_in_use", f"{port.device}: {port.address} or {port.mac} is still used by {devices}")


def _record(nic: NicSpec) -> PortRecord:
    names.check_port(nic)
    return PortRecord(nic.device, nic.mac, nic.address, nic.port_id, nic.network.id)
