"""What a driver asks of the host's network. `compute.node.network` keeps this promise; tests bring a plain bridge."""

from __future__ import annotations

from typing import Protocol

from compute.wire import NetworkSpec, NicSpec


class PortManager(Protocol):
    """Bridges and filtered ports of one host. Every method is an ensure and raises the driver contract's errors."""

    def bridge_name(self, network: NetworkSpec) -> str:
        """Return the bridge to which the hypervisor connects the network's ports. Asks nothing of the kernel."""

    def ensure_port(self, nic: NicSpec) -> None:
        """Ensure the network, and that a guest behind `nic.device` can use its own addresses and nothing else.

        Called before the device exists: no frame of an unfiltered guest may ever pass.
        """

    def announce_port(self, device: str) -> None:
        """Tell the other hosts that this port's guest runs here now: after it has arrived. An unknown one is no error."""

    def reached(self) -> tuple[str, ...] | None:
        """Return the ids of the networks that a guest of this host could use now: looked at, not remembered.

        None where nobody has told it of any yet.
        """

    def remove_port(self, device: str) -> None:
        """Ensure that the port is forgotten. An unknown one is no error."""
