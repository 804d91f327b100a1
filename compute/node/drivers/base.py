"""The driver contract: what any hypervisor must be able to do, and what each call promises.

Every method is an *ensure*: it looks first, does what is missing, and may be called again at any time with the same
result, also after a crash half way. A method never trusts its own return code: it observes the domain afterwards.

Errors say what the caller may do: `RetryLater` (nothing wrong with the order), `Never` (this order cannot succeed),
`Unknown` (connection lost, deadline passed: look again before any conclusion). Nothing else may leave a driver.

The fake driver (`fake`) is the specification of these semantics in running code; `tests/drivers/contract.py` is the
proof that each driver keeps them.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Final

from compute.wire import (
    DomainLook,
    DomainReport,
    HostInventory,
    HostProof,
    InstanceSpec,
    Kind,
    MigrationJob,
    MigrationStatus,
    PartitionReport,
    PowerState,
    Readiness,
    TenantShares,
    VirtMode,
)

MIGRATE_WAIT_SECONDS: Final = 2.0


class DriverError(Exception):
    """Base. `code` is stable and machine-readable; the message is for operators."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RetryLater(DriverError):
    """The order is good, the moment is not (storage full for now, domain busy). The engine tries again later."""


class Never(DriverError):
    """The order cannot succeed on this host as it stands. The engine unwinds."""


class Unknown(DriverError):
    """What happened is not known (libvirt error 1 or 38, watchdog). The engine calls again; ensure finishes it."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do, as data: the layer above asks these, never the driver's name."""

    kinds: tuple[Kind, ...]
    modes: tuple[VirtMode, ...]
    live_migration: bool
    suspend_to_disk: bool
    graceful_stop: bool


class Driver(abc.ABC):
    """One host's hypervisor. Instances are named by Cenote's instance id, which is also the domain's UUID."""

    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """Return what this driver can do on this host. Cheap; asks no daemon."""

    @abc.abstractmethod
    def inventory(self) -> HostInventory:
        """Return the slice of the machine offered. Raises Unknown when the daemon does not answer."""

    @abc.abstractmethod
    def prove(self) -> HostProof:
        """Boot real guests to their init and check all that instances will need. Leaves nothing behind.

        Takes up to 150 s. Raises Unknown when the daemon does not answer; all else is a step that is not ok.
        """

    @abc.abstractmethod
    def list_domains(self) -> tuple[DomainReport, ...]:
        """Return every domain of the host, foreign ones too, in one pass.

        Raises Unknown on failure; never returns an empty or short list instead.
        """

    @abc.abstractmethod
    def list_disks(self) -> tuple[str, ...]:
        """Return the ids of instances that have a directory in storage (also half-made ones)."""

    @abc.abstractmethod
    def list_partitions(self) -> tuple[PartitionReport, ...]:
        """Return the tenants' partitions, with what ran in them. Asks no daemon; empty where the kernel has no groups."""

    @abc.abstractmethod
    def weigh(self, shares: tuple[TenantShares, ...]) -> None:
        """Ensure that the tenants' partitions weigh what `shares` says, a tenant that it does not name NORMAL_SHARES.

        Kept on the host: what is started later, by a later driver, or after a reboot weighs the same. Partitions without
        a guest are taken away. Asks no daemon.
        """

    @abc.abstractmethod
    def prepare(self, spec: InstanceSpec) -> None:
        """Ensure that the instance's root disk or tree, seed and ports exist and are whole.

        Does not touch a running guest's.
        Raises Never("image_missing" | "image_corrupt" | "disk_too_small"), RetryLater("storage_full").
        """

    @abc.abstractmethod
    def start(self, spec: InstanceSpec, *, token: int) -> PowerState:
        """Ensure that the domain is defined from `spec` and running; return the power state seen afterwards.

        It runs in its tenant's partition (`spec.partition`); a domain that was running already stays where it is.
        A paused domain is resumed. `token` is written to the domain's metadata. Needs `prepare` to have been done.
        Raises Never("disk_missing" | "cells_refused" | "definition_refused" | "start_failed").
        """

    @abc.abstractmethod
    def stop(self, instance_id: str, *, graceful_seconds: float) -> PowerState:
        """Ensure that the domain is not running: ask the guest, wait up to `graceful_seconds`, then cut the power.

        0 cuts at once. The definition stays. An absent domain is "absent", not an error.
        """

    @abc.abstractmethod
    def reboot(self, spec: InstanceSpec, *, token: int, graceful_seconds: float) -> PowerState:
        """Restart the guest: `stop` then `start`, so that a changed definition takes effect."""

    @abc.abstractmethod
    def resize(self, spec: InstanceSpec, *, token: int) -> None:
        """Ensure that a stopped instance's definition and root disk have the size that `spec` says.

        The disk grows; the guest sees it at its next boot. A disk that is larger than `spec` says is cut back where the
        guest never wrote beyond that size (a growth that is taken back), and left as it is otherwise: no byte is lost.
        A container's tree has no size of its own. Raises Never("domain_running" | "disk_missing" | "definition_refused"),
        RetryLater("storage_full" | "disk_resize_failed").
        """

    @abc.abstractmethod
    def remove(self, instance_id: str) -> None:
        """Ensure that nothing of the instance is left: domain, definition, ports, disk, seed, console log, cgroup.

        Works from the id alone, also when `prepare` died half way. Touches only domains with Cenote's metadata for
        this id; raises Never("foreign_domain") where another domain has it as UUID.
        """

    @abc.abstractmethod
    def receive(self, spec: InstanceSpec, *, storage_id: str) -> Readiness:
        """Ensure that the instance can arrive here: ports with their filters, its partition, what is local to a host.

        `storage_id` is the storage's that its disks lie in at the source. Names every obstacle, and makes nothing where
        there is one: storage_not_shared, disk_missing, runs_here, foreign_domain, cells_refused, not_a_vm.
        Raises RetryLater.
        """

    @abc.abstractmethod
    def migrate(self, spec: InstanceSpec, job: MigrationJob, *, stop: bool) -> MigrationStatus:
        """Ensure that the job was begun, tend it, and return how far it is; with `stop` end it while that is possible.

        Waits up to MIGRATE_WAIT_SECONDS for its end, so asking again at once is no busy loop. A job is begun once: a
        later driver of the same host finds it running, or how it ended. Its failure is a status, not an error; after
        it has ended, the answer stays the same until the instance is withdrawn or another job begins. The domain's
        definition stays at the source and is none at the destination until `adopt`. Raises Unknown, RetryLater.
        """

    @abc.abstractmethod
    def look(self, instance_id: str) -> DomainLook:
        """Look at one domain now. Raises Unknown when the daemon does not answer, which says nothing of the guest."""

    @abc.abstractmethod
    def adopt(self, spec: InstanceSpec, *, token: int, resume: bool) -> PowerState:
        """Ensure that what arrived here is this host's: defined from `spec`, `token` in its metadata, weighed, reachable.

        A paused guest is set going only with `resume`. Raises Never("domain_absent" | "definition_refused").
        """

    @abc.abstractmethod
    def withdraw(self, instance_id: str, *, paused_too: bool = False, running_too: bool = False) -> None:
        """Ensure that nothing of the instance is left here but what lies in the storage that hosts share.

        Domain, definition, ports, console log and cgroup go; its disk or tree and its seed stay, since it lives on
        elsewhere. A guest that is active is left as it is unless the caller says so: `paused_too` destroys a paused
        copy, `running_too` a running one as well (only for a host whose guests were started elsewhere).
        Works from the id alone. Raises Never("domain_running" | "foreign_domain"), RetryLater("stop_failed").
        """

    @abc.abstractmethod
    def console_log(self, instance_id: str, *, max_bytes: int) -> bytes:
        """Return the newest `max_bytes` of what the guest said on its serial console; empty when there is none yet."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of connections. Guests keep running."""
