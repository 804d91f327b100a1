"""IPAM: an address and a MAC for a new port, taken in the create transaction."""

from __future__ import annotations

import ipaddress
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from django.db.models import Count

from compute.errors import NoAddressLeft
from compute.models import Network, Port
from tenants import prepared

_TRIES = 16


# A collision, with a port or with one that another transaction is about to commit, leaves the row out.
_INSERT: Final = """
INSERT INTO compute_port (id, tenant_id, network_id, instance_id, mac, address, created_at)
SELECT p.id, %(tenant)s, %(network)s, p.instance_id, p.mac, p.address, statement_timestamp()
FROM unnest(%(ids)s::uuid[], %(instances)s::uuid[], %(macs)s::text[], %(addresses)s::inet[])
    AS p(id, instance_id, mac, address)
ON CONFLICT DO NOTHING RETURNING id
"""


def take_ports(*, tenant_id: uuid.UUID, instance_ids: Sequence[uuid.UUID], network: Network) -> dict[uuid.UUID, Port]:
    """Insert a port with a free address of the network for each instance; return them by instance.

    Addresses are drawn at random and the unique constraint is the judge: creates at the same time do not queue behind
    one another, and an address given back is unlikely to be the next one out. A nearly full network is searched in order.
    Raises NoAddressLeft when there is none.
    """
    net = ipaddress.ip_network(network.cidr)
    first, last = _bounds(network)
    without = list(instance_ids)
    made: dict[uuid.UUID, Port] = {}
    for _ in range(_TRIES):
        drawn = {instance_id: str(net[first + secrets.randbelow(last - first + 1)]) for instance_id in without}
        made |= _insert(tenant_id, network, drawn)
        without = [instance_id for instance_id in without if instance_id not in made]
        if not without:
            return made
    taken = set(Port.unscoped.filter(network=network).values_list("address", flat=True))
    free = (str(net[index]) for index in range(first, last + 1) if str(net[index]) not in taken)
    for address in free:
        made |= _insert(tenant_id, network, {without[0]: address})
        if without[0] in made:
            without = without[1:]
            if not without:
                return made
    raise NoAddressLeft(f"The network {network.name} has no address left.")


def addresses_left(networks: Iterable[Network]) -> dict[uuid.UUID, int]:
    """Return network id -> addresses that `take_ports` could still hand out. One query."""
    found = list(networks)
    counts = Port.unscoped.filter(network__in=found).values_list("network_id").annotate(taken=Count("id"))
    taken = dict(counts)
    left = {}
    for network in found:
        first, last = _bounds(network)
        left[network.id] = max(0, last - first + 1 - taken.get(network.id, 0))
    return left


def _bounds(network: Network) -> tuple[int, int]:
    """First and last index handed out: the first address is the gateway, the last sixteen are kept for the hosts' own
    ends and the broadcast."""
    return 2, ipaddress.ip_network(network.cidr).num_addresses - 17


def _insert(tenant_id: uuid.UUID, network: Network, drawn: Mapping[uuid.UUID, str]) -> dict[uuid.UUID, Port]:
    """Insert a port for each instance with its address; return those whose address and MAC were free, by instance."""
    ports = [
        # 52:54:00 is QEMU's own range; three random bytes would meet too soon, so two more come from the same place.
        Port(
            tenant_id=tenant_id,
            network=network,
            instance_id=instance_id,
            address=address,
            mac="52:54:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(4)),
        )
        for instance_id, address in drawn.items()
    ]
    rows = prepared.run(
        _INSERT,
        {
            "tenant": tenant_id,
            "network": network.id,
            "ids": [port.id for port in ports],
            "instances": [port.instance_id for port in ports],
            "macs": [port.mac for port in ports],
            "addresses": [port.address for port in ports],
        },
    )
    free = {row[0] for row in rows}
    return {port.instance_id: port for port in ports if port.id in free}
