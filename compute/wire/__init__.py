"""Value types that cross the trust line between the control plane and a host.

Frozen, slotted, JSON only, versioned. Neither Django nor libvirt is known here. Control plane and node worker may run
different releases for a while: a reader ignores fields that it does not know and refuses a `version` above its own.

Units: memory in MiB, disk in GiB, CPU in vCPU, times in seconds, unless a type says otherwise.
"""

from compute.wire.host import (
    NORMAL_SHARES,
    DomainReport,
    HeartbeatAnswer,
    HostInventory,
    HostProof,
    HostReport,
    HugePages,
    NumaCell,
    PartitionReport,
    ProofStep,
    TenantShares,
    VirtMode,
)
from compute.wire.instance import (
    Boot,
    CellSpec,
    DiskSpec,
    ImageFormat,
    ImageRef,
    InstanceSpec,
    Kind,
    NetworkSpec,
    NicSpec,
    PowerState,
    partition_name,
)
from compute.wire.message import WIRE_VERSION, Message, WireError
from compute.wire.migration import DomainLook, Landing, MigrationJob, MigrationStatus, Readiness
from compute.wire.work import Call, CallAnswer, CallError, Outcome

__all__ = [
    "NORMAL_SHARES",
    "WIRE_VERSION",
    "Boot",
    "Call",
    "CallAnswer",
    "CallError",
    "CellSpec",
    "DiskSpec",
    "DomainLook",
    "DomainReport",
    "HeartbeatAnswer",
    "HostInventory",
    "HostProof",
    "HostReport",
    "HugePages",
    "ImageFormat",
    "ImageRef",
    "InstanceSpec",
    "Kind",
    "Landing",
    "Message",
    "MigrationJob",
    "MigrationStatus",
    "NetworkSpec",
    "NicSpec",
    "NumaCell",
    "Outcome",
    "PartitionReport",
    "PowerState",
    "ProofStep",
    "Readiness",
    "TenantShares",
    "VirtMode",
    "WireError",
    "partition_name",
]
