"""A node worker's settings, from its environment only (`node.env`, written by the join)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compute.node.drivers.settings import LOCAL_DIR, SHARED_DIR, DriverSettings


class SettingsError(ValueError):
    """A variable is missing or has no sense. The message names it and says what would be right."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`api` is an https URL, or http+unix:// followed by the path of a socket. Slices in vCPU, MiB and GiB."""

    host_id: str
    token: str
    api: str
    broker: str
    state_dir: Path
    driver_name: str
    driver: DriverSettings
    ca_file: Path | None = None
    underlay_address: str = ""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> NodeSettings:
        """Read CENOTE_NODE_* variables. Raises SettingsError."""

        def text(name: str, default: str | None = None) -> str:
            value = env.get(f"CENOTE_NODE_{name}", default)
            if value is None:
                raise SettingsError(f"CENOTE_NODE_{name} is missing: deploy/join writes it to node.env")
            return value

        def number(name: str) -> int:
            value = text(name)
            if not value.isdecimal() or int(value) < 1:
                raise SettingsError(f"CENOTE_NODE_{name} is {value!r}: it has to be a whole number above 0")
            return int(value)

        ca_file = text("CA_FILE", "")
        underlay = text("UNDERLAY", "")
        return cls(
            host_id=text("ID"),
            token=text("TOKEN"),
            api=text("API"),
            broker=text("BROKER", ""),
            state_dir=Path(text("STATE_DIR", "/var/lib/cenote/node")),
            driver_name=text("DRIVER", "libvirt"),
            driver=DriverSettings(
                vcpus=number("VCPUS"),
                memory_mib=number("MEMORY_MIB"),
                disk_gib=number("DISK_GIB"),
                shared_dir=Path(text("SHARED_DIR", str(SHARED_DIR))),
                local_dir=Path(text("LOCAL_DIR", str(LOCAL_DIR))),
                underlay_address=underlay,
            ),
            ca_file=Path(ca_file) if ca_file else None,
            underlay_address=underlay,
        )
