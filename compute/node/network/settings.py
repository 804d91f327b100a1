"""What the network code needs to know of its host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Settings of one host.

    `run_dir` holds the state file and dnsmasq's files; it must not outlive a reboot (a directory under /run), must be
    reachable by the user `dnsmasq_user`, and belongs to one network namespace. `underlay_address` is the host's IPv4
    address towards the other hosts; empty on a host that stands alone: its networks end at its own bridge.
    `vxlan_port` (UDP) is deliberately not the registered 4789: a real machine may carry other people's VXLANs there,
    and the packet filter closes this port to all but the peers. It must be the same on all hosts of a pool.
    """

    run_dir: Path = Path("/run/cenote/network")
    underlay_address: str = ""
    vxlan_port: int = 14789
    lease_seconds: int = 7 * 86400
    dnsmasq_user: str = "dnsmasq"
    lock_seconds: float = 10.0
    leftover_seconds: float = 60.0
