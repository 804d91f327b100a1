"""IPAM: an address and a MAC for a new port, taken in the create transaction."""

from __future__ import annotations

import ipaddress
import secrets
import uuid
from collections.abc import Iterable

from django.db import IntegrityError, transaction
from django.db.models import Count

from compute.errors import NoAddressLeft
from compute.models import Instance, Network, Port

_TRIES = 16


def take_port(*, instance: Instance, network: Network) -> Port:
    """Insert a port with a free address of the network. Raises NoAddressLeft when there is none.

    Addresses are drawn at random and the unique constraint is the judge: creates at the same time do not queue behind
    one another, and an address given back is unlikely to be the next one out. A nearly full network is searched in order.
    """
    net = ipaddress.ip_network(network.cidr)
    first, last = _bounds(network)
    for _ in range(_TRIES):
        port = _insert(instance, network, str(net[first + secrets.randbelow(last - first + 1)]))
        if port is not None:
            return port
    taken = set(Port.unscoped.filter(network=network).values_list("address", flat=True))
    for index in range(first, last + 1):
        if str(net[index]) not in taken:
            port = _insert(instance, network, str(net[index]))
            if port is not None:
                return port
    raise NoAddressLeft(f"The network {network.name} has no address left.")


def addresses_left(networks: Iterable[Network]) -> dict[uuid.UUID, int]:
    """Return network id -> addresses that `take_port` could still hand out. One query."""
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


def _insert(instance: Instance, network: Network, address: str) -> Port | None:
    # 52:54:00 is QEMU's own range; three random bytes would meet too soon, so two more come from the same place.
    mac = "52:54:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(4))
    try:
        with transaction.atomic():
            port: Port = Port.unscoped.create(
                tenant_id=instance.tenant_id, instance=instance, network=network, address=address, mac=mac
            )
            return port
    except IntegrityError:
        return None
