"""What one host needs to know of its pool's network."""

from __future__ import annotations

from typing import Any

from compute.models import Host, Network, Port
from compute.wire import NetworkSpec, NicSpec


def network_of(*, host: Host) -> dict[str, Any]:
    """Return the pool's networks, the underlay addresses of its hosts, and the ports of instances allocated to this host."""
    networks = {
        row.id: NetworkSpec(
            id=str(row.id), vni=row.vni, cidr=row.cidr, gateway=row.gateway, mtu=row.mtu, dns=tuple(row.dns)
        )
        for row in Network.objects.filter(pool_id=host.pool_id)
    }
    peers = Host.objects.filter(pool_id=host.pool_id).exclude(admin_state="removed").order_by("id")
    ports = Port.unscoped.filter(instance__host=host, instance__state__in=["building", "active", "error"])
    return {
        "networks": [network.to_json() for network in networks.values()],
        "hosts": [{"id": str(row.id), "name": row.name, "address": row.address} for row in peers],
        "ports": [
            NicSpec(
                port_id=str(port.id),
                mac=port.mac,
                address=port.address,
                network=networks[port.network_id],
                device=port.device,
            ).to_json()
            for port in ports
        ],
    }
