"""What the control plane and the two hosts of a live migration tell each other.

The destination `instance.receive`s: ports, partition and checks, before anything moves. The source is asked to
`instance.migrate` again and again: the first question begins the job, which then runs from hypervisor to hypervisor
whoever asks; each further one tends it and tells how far it is. Then both ends `instance.look`, since what a job says of
its end is not the truth (a lost connection tells of failure after success). What moved is `instance.adopt`ed where it runs and
`instance.withdraw`n where it ran; what stayed is withdrawn from the destination.

Units: bytes, bytes per second, seconds; pauses of the guest in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from compute.wire.instance import PowerState
from compute.wire.message import Message

Ended = Literal["", "moved", "stayed", "absent"]
Rung = Literal["copy", "converge", "downtime", "pause"]


@dataclass(frozen=True, slots=True)
class Landing(Message):
    """What is a destination's own in a domain's definition: its tenant's partition, and the CPUs of its slice (() for all)."""

    partition: str = ""
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationJob(Message):
    """How a running VM is to be copied to the host at `destination_address`, one of the names in its certificate.

    `id` names the job: asked again with the same one, the source tends it and never begins it a second time.
    Both hosts see its disks. The guest may pause for `downtime_ms`; where copying
    does not come to an end, the ladder is climbed, a rung for each `rung_seconds`: auto-converge (where allowed), then
    longer pauses up to `downtime_limit_ms`, then `at_the_end`: the job is given up, or the guest is paused for the rest
    of the copy. After `deadline_seconds` the job is given up in any case. `landing` is what the destination said.
    """

    id: str
    destination_address: str
    bandwidth_mib_s: int = 0  # 0: as fast as the link is
    downtime_ms: int = 300
    downtime_limit_ms: int = 2000
    auto_converge: bool = True
    at_the_end: Literal["give_up", "pause"] = "give_up"
    rung_seconds: float = 10.0
    deadline_seconds: float = 600.0
    landing: Landing = Landing()


@dataclass(frozen=True, slots=True)
class MigrationStatus(Message):
    """How far a job is, or how it ended, as the source counts it: a hint and no verdict.

    `ended` "" means that it is going on; "absent" that no such domain runs here, for the job moved it or for another
    reason. `code` says why it "stayed": cancelled, deadline, not_converging, destination_refused, connection_lost, job_lost,
    not_running, refused. Figures are 0 where they are not known. `downtime_ms` is the pause allowed now and, at the end,
    the one there was by the hypervisor's own account; `dirty_bytes_per_second` is what the guest itself writes.
    `eta_seconds` is None while the guest writes faster than the link carries.
    """

    ended: Ended = ""
    code: str = ""
    message: str = ""
    elapsed_seconds: float = 0.0
    total_bytes: int = 0
    done_bytes: int = 0
    remaining_bytes: int = 0
    bytes_per_second: float = 0.0
    dirty_bytes_per_second: float = 0.0
    iterations: int = 0
    downtime_ms: float = 0.0
    throttle_percent: int = 0
    rung: Rung = "copy"
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Readiness(Message):
    """What the destination found. `obstacles`: sentences for the operator, by code; none means that it may begin."""

    obstacles: dict[str, str] = field(default_factory=dict)
    landing: Landing = Landing()


@dataclass(frozen=True, slots=True)
class DomainLook(Message):
    """One domain, looked at freshly for a verdict. `incoming`: it waits for memory from elsewhere and has never run here.

    `outgoing`: a migration away from here is going on. `persistent`: the host keeps a definition of it.
    """

    power: PowerState
    incoming: bool = False
    outgoing: bool = False
    persistent: bool = False
