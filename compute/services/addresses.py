"""IPAM: an address and a MAC for a new port, taken in the create transaction."""

from __future__ import annotations

import ipaddress
import secrets
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from django.db.models import Count

from compute.errors import NoAddressLeft
from compute.models import Network, Port
from tenants import prepared
from tenants.models.ids import new_id

_TRIES = 16


# A collision, with a port or with one that another transaction is about to commit, leaves the row out.
_INSERT: Final = """
INSERT INTO compute_port (id, tenant_id, network_id, instance_id, mac, address, created_at)
SELECT p.id, %(tenant)s, %(network)s, p.instance_id, p.mac, p.address, statement_timestamp()
FROM unnest(%(ids)s::uuid[], %(instances)s::uuid[], %(macs)s::text[], %(addresses)s::inet[])
    AS p(id, instance_id, mac, address)
ON CONFLICT DO NOTHING RETURNING instance_id
"""


def take_ports(*, tenant_id: uuid.UUID, instance_ids: Sequence[uuid.UUID], network: Network) -> None:
    """Insert a port with a free address of the network for each instance. Raises NoAddressLeft when there is none.

    Addresses are drawn at random and the unique constraint is the judge: creates at the same time do not queue behind
    one another, and an address given back is unlikely to be the next one out. A nearly full network is searched in order.
    """
    net = ipaddress.ip_network(network.cidr)
    first, last = _bounds(network)
    without = list(instance_ids)
    for _ in range(_TRIES):
        drawn = [str(net[first + secrets.randbelow(last - first + 1)]) for _ in without]
        without = _insert(tenant_id, network, without, drawn)
        if not without:
            return
    taken = set(Port.unscoped.filter(network=network).values_list("address", flat=True))
    free = (str(net[index]) for index in range(first, last + 1) if str(net[index]) not in taken)
    for address in free:
        if not _insert(tenant_id, network, without[:1], [address]):
            without = without[1:]
            if not without:
                return
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


def _insert(
    tenant_id: uuid.UUID, network: Network, instance_ids: Sequence[uuid.UUID], addresses: Sequence[str]
) -> list[uuid.UUID]:
    """Insert a port for each instance; return the instances whose address or MAC was taken."""
    rows = prepared.run(
        _INSERT,
        {
            "tenant": tenant_id,
            "network": network.id,
            "ids": [new_id() for _ in instance_ids],
            "instances": list(instance_ids),
            # 52:54:00 is QEMU's own range; three random bytes would meet too soon, so two more come from the same place.
            "macs": ["52:54:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(4)) for _ in instance_ids],
            "addresses": list(addresses),
        },
    )
    done = {row[0] for row in rows}
    return [instance_id for instance_id in instance_ids if instance_id not in done]
