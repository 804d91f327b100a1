"""A node worker's settings, from its environment only (`node.env`, written by the join)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from compute.node.drivers.settings import LOCAL_DIR, SHARED_DIR, DriverSettings

_CPU_LIST = re.compile(r"(\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*)?", re.ASCII)


class SettingsError(ValueError):
    """A variable is missing or has no sense. The message names it and says what would be right."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`api` is an https URL, or http+unix:// followed by the path of a socket. Slices in vCPU, MiB and GiB."""

    host_id: str
    token: str = field(repr=False)
    api: str
    broker: str = field(repr=False)
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
            if value is None or (default is None and not value):
                raise SettingsError(f"CENOTE_NODE_{name} is missing: the join writes it to node.env")
            return value

        def number(name: str) -> int:
            value = text(name)
            if not (value.isascii() and value.isdecimal()) or int(value) < 1:
                raise SettingsError(f"CENOTE_NODE_{name} is {value!r}: it has to be a whole number above 0")
            return int(value)

        def one_of(name: str, default: str, known: tuple[str, ...]) -> str:
            value = text(name, default)
            if value not in known:
                raise SettingsError(f"CENOTE_NODE_{name} is {value!r}: it has to be one of {', '.join(known)}")
            return value

        def cpus(name: str) -> tuple[int, ...]:
            value = text(name, "")
            runs = [part.split("-") for part in value.split(",") if part]
            if not _CPU_LIST.fullmatch(value) or any(int(run[0]) > int(run[-1]) for run in runs):
                raise SettingsError(f"CENOTE_NODE_{name} is {value!r}: it has to be a list of CPUs such as 2-7,10")
            return tuple(sorted({cpu for run in runs for cpu in range(int(run[0]), int(run[-1]) + 1)}))

        slice_cpus, dedicated = cpus("CPUS"), cpus("DEDICATED_CPUS")
        if slice_cpus and not set(dedicated) < set(slice_cpus):
            raise SettingsError("CENOTE_NODE_DEDICATED_CPUS has to be a part of CENOTE_NODE_CPUS, and leave some of it")
        host_id = _uuid(text("ID"))
        ca_file = text("CA_FILE", "")
        underlay = text("UNDERLAY", "")
        return cls(
            host_id=host_id,
            token=text("TOKEN"),
            api=text("API"),
            broker=text("BROKER", ""),
            state_dir=Path(text("STATE_DIR", "/var/lib/cenote/node")),
            driver_name=one_of("DRIVER", "libvirt", ("libvirt", "fake")),
            driver=DriverSettings(
                vcpus=number("VCPUS"),
                memory_mib=number("MEMORY_MIB"),
                disk_gib=number("DISK_GIB"),
                shared_dir=Path(text("SHARED_DIR", str(SHARED_DIR))),
                local_dir=Path(text("LOCAL_DIR", str(LOCAL_DIR))),
                underlay_address=underlay,
                cpus=slice_cpus,
                dedicated_cpus=dedicated,
                huge_pages=one_of("HUGE_PAGES", "yes", ("yes", "no")) == "yes",
                partition=partition_base(host_id),
            ),
            ca_file=Path(ca_file) if ca_file else None,
            underlay_address=underlay,
        )


def partition_base(host_id: str) -> str:
    """Return the group that holds a host's partitions. By host: lab hosts see one tree of control groups."""
    return f"cenote{host_id[-12:]}"


def _uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise SettingsError(f"CENOTE_NODE_ID is {text!r}: it has to be the host's UUID") from None
