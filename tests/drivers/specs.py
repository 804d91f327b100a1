"""The smallest valid instance specs, and images for them."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from compute.wire import DiskSpec, ImageRef, InstanceSpec, Kind, NetworkSpec, NicSpec

VM_IMAGE = ImageRef(id=str(uuid.UUID(int=1)), format="qcow2", sha256="0" * 64, size_bytes=1, virtual_size_gib=1)
TREE_IMAGE = ImageRef(
    id=str(uuid.UUID(int=2)), format="rootfs-tar", sha256="0" * 64, size_bytes=1, virtual_size_gib=1, boot="init"
)


PARENT = "018f4b52-0000-7000-8000-00000000aaaa"
TENANT = "018f4b52-0000-7000-8000-00000000bbbb"


def make_nic(instance_id: str, index: int = 0) -> NicSpec:
    """A port on network 10.77.0.0/24 whose device, MAC and address derive from the instance's id."""
    digest = hashlib.sha256(f"{instance_id}/{index}".encode()).digest()
    network = NetworkSpec(id=str(uuid.UUID(int=77)), vni=77, cidr="10.77.0.0/24", gateway="10.77.0.1")
    return NicSpec(
        port_id=str(uuid.UUID(bytes=digest[:16])),
        mac="52:54:00:" + ":".join(f"{octet:02x}" for octet in digest[:3]),
        address=f"10.77.0.{digest[0] % 250 + 2}",
        network=network,
        device="cnp" + digest.hex()[:8],
    )


def make_spec(kind: Kind = "vm", *, image: ImageRef | None = None, **changes: Any) -> InstanceSpec:
    """An instance of that kind with one vCPU, 64 MiB, 1 GiB and one port."""
    instance_id = changes.pop("id", None) or str(uuid.uuid4())
    chosen = image or (VM_IMAGE if kind == "vm" else TREE_IMAGE)
    values: dict[str, Any] = {
        "id": instance_id,
        "tenant_id": TENANT,
        "partition": (PARENT, TENANT),
        "name": "guest",
        "kind": kind,
        "vcpus": 1,
        "memory_mib": 64,
        "disk": DiskSpec(id=instance_id, size_gib=changes.pop("size_gib", 1), image=chosen),
        "nics": (make_nic(instance_id),),
        **changes,
    }
    return InstanceSpec(**values)
