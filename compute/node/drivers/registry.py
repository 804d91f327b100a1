"""The only place that names all drivers."""

from __future__ import annotations

from compute.node.drivers.base import Driver
from compute.node.drivers.fake import FakeDriver, FakeHost
from compute.node.drivers.libvirt.host import LibvirtDriver
from compute.node.drivers.network import PortManager
from compute.node.drivers.settings import DriverSettings
from compute.node.network.ports import PortManager as HostPorts
from compute.node.network.settings import NetworkSettings

NAMES = ("fake", "libvirt")


def open_driver(name: str, settings: DriverSettings, network: PortManager | None = None) -> Driver:
    """Return the driver of that name for this host. Dials nothing: the first call that needs a daemon does.

    `network` is the host's port manager, for the libvirt driver; without one it makes its own. Pass the one that
    the node worker keeps its networks with. The fake has no network, and keeps its host in `local_dir`/fake.json.
    Raises ValueError for an unknown name.
    """
    if name == "fake":
        settings.local_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FakeDriver(settings, FakeHost.load(settings.local_dir / "fake.json"))
    if name == "libvirt":
        if network is None:
            network = HostPorts(NetworkSettings(settings.network_dir, settings.underlay_address))
        return LibvirtDriver(settings, network)
    raise ValueError(f"no driver named {name!r}; there are {', '.join(NAMES)}")
