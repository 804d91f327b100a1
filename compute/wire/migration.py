"""What the control plane and the two hosts of a migration tell each other.

A migration is five orders. The destination `instance.receive`s: ports, partition and checks, before anything moves. The
source `instance.migrate`s, peer to peer, and reports its progress with its heartbeats. Then both are asked to
`instance.look`, since what the call says of its end is not the truth (reliability.md, finding 6). What was judged to have
moved is `instance.adopt`ed where it runs, and `instance.withdraw`n where it ran; what stayed is withdrawn from the destination.
`instance.measure` comes before all of it, for the forecast.

Units: bytes, bytes per second, seconds; pauses of the guest in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compute.wire.instance import Kind, PowerState
from compute.wire.message import Message

Ended = Literal["moved", "stayed", "absent"]


@dataclass(frozen=True, slots=True)
class MigrationJob(Message):
    """How a running VM is to be copied to `destination_name`, the host's name in its certificate, at `destination_address`.

    `copy_disks`: the destination does not see the source's storage. The guest may pause for `downtime_ms`; where copying
    does not come to an end, the ladder is climbed a rung each `rung_seconds` without progress: auto-converge (where
    allowed), then longer pauses up to `downtime_limit_ms`, then `at_the_end`: the guest is paused for the rest of the
    copy, or goes on at the source, or (post-copy) at the destination with its memory still coming. After
    `deadline_seconds` the job is given up in any case.
    """

    destination_name: str
    destination_address: str
    copy_disks: bool = False
    bandwidth_mib_s: int = 0  # 0: as fast as the link is
    downtime_ms: int = 300
    downtime_limit_ms: int = 2000
    auto_converge: bool = True
    at_the_end: Literal["give_up", "pause", "post_copy"] = "give_up"
    rung_seconds: float = 10.0
    deadline_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class MigrationProgress(Message):
    """A running migration as the source's hypervisor counts it. `dirty_bytes_per_second` is the guest's own writing.

    `downtime_ms`: the pause that is allowed now. `rung`: how far up the ladder, in words of MigrationJob. `eta_seconds`
    is None while the guest writes faster than the link carries.
    """

    instance_id: str
    elapsed_seconds: float
    total_bytes: int
    done_bytes: int
    remaining_bytes: int
    bytes_per_second: float
    dirty_bytes_per_second: float
    iterations: int
    downtime_ms: int
    throttle_percent: int = 0
    rung: Literal["copy", "converge", "downtime", "pause", "post_copy"] = "copy"
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class MigrationEnd(Message):
    """How the job ended as the source saw it, a hint and no verdict. Figures are None where the job's were lost.

    `absent`: no such domain ran here, so there was nothing to move.
    """

    ended: Ended
    code: str = ""  # why it stayed: cancelled, deadline, not_converging, refused, destination_lost, ...
    message: str = ""
    total_seconds: float | None = None
    downtime_ms: float | None = None  # QEMU's own account
    moved_bytes: int | None = None
    iterations: int | None = None
    bytes_per_second: float | None = None
    dirty_bytes_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Readiness(Message):
    """What the destination found. `obstacles`: sentences for the operator, by code; none means that it may begin."""

    obstacles: dict[str, str]
    shared_storage_id: str = ""


@dataclass(frozen=True, slots=True)
class DomainLook(Message):
    """One domain, looked at freshly for a verdict. `incoming`: it waits for memory from elsewhere and has never run here.

    `job`: a migration to or from here is going on. `persistent`: the host keeps a definition of it.
    """

    power: PowerState
    incoming: bool = False
    job: Literal["none", "outgoing", "incoming"] = "none"
    persistent: bool = False


@dataclass(frozen=True, slots=True)
class GuestLoad(Message):
    """What the forecast starts from. `used_bytes`: memory that a migration has to carry at least once.

    `dirty_bytes_per_second` is None where it could not be measured.
    """

    kind: Kind
    memory_bytes: int
    used_bytes: int
    dirty_bytes_per_second: float | None
    disk_bytes: int = 0  # allocated, for a copy of the disk
