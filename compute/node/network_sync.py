"""Keeps this host's network as the control plane has it: bridges, peers on other hosts, ports of its instances.

What is here goes with a reboot, so all of it is asked for again and again; each round changes only what is missing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from compute.node.client import ApiRefused, ApiUnavailable
from compute.node.network.ports import PortManager
from compute.node.network.settings import NetworkSettings
from compute.node.settings import NodeSettings
from compute.wire import NetworkSpec, NicSpec

log = logging.getLogger(__name__)
PERIOD_SECONDS = 15.0
RETRY_SECONDS = 5.0

View = dict[str, Any]


class Api(Protocol):
    """The part of nodeapi that the network needs."""

    def network(self) -> View: ...


class NetworkSync:
    """`run` in a thread of its own until `stop`: the host's sign of life must not wait for `ip`, `nft` and `dnsmasq`.

    `changed` is called once the host has networks that it had not, or had lost: what was reported is out of date.
    """

    def __init__(self, api: Api, apply: Callable[[View], None], changed: Callable[[], None] = lambda: None) -> None:
        self._api = api
        self._apply = apply
        self._changed = changed
        self._networks: Any = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Bring the network up to date until `stop`."""
        while not self._stopping.is_set():
            self._stopping.wait(PERIOD_SECONDS if self.once() else RETRY_SECONDS)

    def once(self) -> bool:
        """Bring it up to date now; return whether that worked."""
        try:
            view = self._api.network()
            self._apply(view)
        except (ApiUnavailable, ApiRefused) as error:
            log.warning("the network's state could not be read: %s", error)
        except Exception:
            # A network that cannot be built must not take the worker along: other calls still work.
            log.exception("the network could not be brought up to date")
        else:
            if view["networks"] != self._networks:
                self._networks = view["networks"]
                self._changed()
            return True
        self._networks = None
        return False

    def stop(self) -> None:
        """Begin no more rounds."""
        self._stopping.set()


def host_network(settings: NodeSettings) -> Callable[[View], None]:
    """Return what applies nodeapi's view of the network to this host. The fake driver's hosts have none."""
    if settings.driver_name == "fake":
        return lambda view: None
    ports = PortManager(
        NetworkSettings(run_dir=settings.driver.network_dir, underlay_address=settings.underlay_address)
    )

    def apply(view: View) -> None:
        ports.restore(
            [NetworkSpec.from_json(item) for item in view["networks"]],
            [item["address"] for item in view["hosts"]],
            [NicSpec.from_json(item) for item in view["ports"]],
        )

    return apply
