"""The one module that knows libvirt: connections, error codes, constants. Everything else speaks of `Hypervisor`.

- libvirt calls and `open` have no deadline. Keepalive ends them when the daemon freezes, but works only while an event
  loop runs that was registered *before* the connection was opened. The node's watchdog is the second wall.
- A connection must not cross a fork: the child would have the socket without the event loop.
- Error codes are coarse. 38 (system error) and 1 (internal error) say nothing about what was done: Unknown.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import libvirt
from lxml import etree

from compute.node.drivers.base import Never, RetryLater, Unknown
from compute.node.drivers.libvirt.metadata import METADATA_KEY, NAMESPACE, PARSER, read_metadata
from compute.wire import PowerState

KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
MAX_CALLS: Final = 4  # the daemon serves 5 at once for a connection; more would starve its keepalive answers

_POWER: Final[dict[int, PowerState]] = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",  # on its way down is not down
    libvirt.VIR_DOMAIN_SHUTOFF: "stopped",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
}
_NEVER: Final = {
    libvirt.VIR_ERR_NO_SUPPORT: "not_supported",
    libvirt.VIR_ERR_INVALID_ARG: "definition_refused",
    libvirt.VIR_ERR_OS_TYPE: "definition_refused",
    libvirt.VIR_ERR_XML_ERROR: "definition_refused",
    libvirt.VIR_ERR_XML_DETAIL: "definition_refused",
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: "definition_refused",
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: "definition_refused",
    libvirt.VIR_ERR_ACCESS_DENIED: "access_denied",
    libvirt.VIR_ERR_AUTH_FAILED: "access_denied",
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: "not_supported",
}
_RETRY: Final = {
    libvirt.VIR_ERR_NO_MEMORY: "memory_short",
    libvirt.VIR_ERR_OPERATION_TIMEOUT: "domain_busy",
    libvirt.VIR_ERR_RESOURCE_BUSY: "resource_busy",
    libvirt.VIR_ERR_OPERATION_FAILED: "operation_failed",
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: "agent_silent",
}
_ALREADY_SO: Final = frozenset({libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID})


@dataclass(frozen=True, slots=True)
class SeenDomain:
    """A domain as libvirt shows it now. `instance_id` is None without Cenote's metadata. `pid` is LXC's controller."""

    uuid: str
    name: str
    power: PowerState
    persistent: bool
    instance_id: str | None
    token: int
    cpu_seconds: float
    memory_mib: int
    pid: int


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """How a domain is copied. `bandwidth_mib_s` 0: as fast as the link is."""

    auto_converge: bool
    bandwidth_mib_s: int
    downtime_ms: int


class MigrationFailed(Exception):
    """libvirt says that a migration failed. The guest may have moved all the same."""


class Hypervisor:
    """One supervised libvirt connection, opened at first use and again after it was lost. Safe for many threads."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._connection: libvirt.virConnect | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_CALLS)

    # -- looking

    def find(self, uuid: str) -> SeenDomain | None:
        """Return the domain with this UUID, None when the daemon says that there is none. Raises Unknown."""
        with self._call() as connection:
            domain = _lookup(connection, uuid)
            return None if domain is None else _look(domain)

    def list_domains(self) -> list[SeenDomain]:
        """Return all domains in one pass. One that vanishes meanwhile is left out. Raises Unknown."""
        seen = []
        with self._call() as connection:
            for domain in connection.listAllDomains():
                with _tolerated(libvirt.VIR_ERR_NO_DOMAIN):
                    seen.append(_look(domain))
        return seen

    def definition(self, uuid: str) -> str | None:
        """Return the domain's XML as it is now, None when there is no such domain. Raises Unknown."""
        with self._call() as connection:
            domain = _lookup(connection, uuid)
            if domain is not None:
                with _tolerated(libvirt.VIR_ERR_NO_DOMAIN):
                    return str(domain.XMLDesc())
        return None

    def versions(self) -> tuple[str, str]:
        """Return libvirt's version and the hypervisor's, as `9.0.0`. Raises Unknown."""
        with self._call() as connection:
            return _version(connection.getLibVersion()), _version(connection.getVersion())

    def domain_capabilities(self, virt_type: str) -> str:
        """Return libvirt's XML on what a domain of this type (`kvm`, `qemu`) may be here. Raises Never, Unknown."""
        with self._call() as connection:
            return str(connection.getDomainCapabilities(None, "x86_64", None, virt_type))

    def capabilities(self) -> str:
        """Return libvirt's XML on the machine itself. Raises Unknown."""
        with self._call() as connection:
            return str(connection.getCapabilities())

    def expanded(self, processor: str, virt_type: str) -> str:
        """Return a processor (XML) with every flag that a domain of this type gets with it here. Raises Never, Unknown."""
        flags = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
        with self._call() as connection:
            return str(connection.baselineHypervisorCPU(None, "x86_64", None, virt_type, [processor], flags))

    def free_pages(self, sizes: Sequence[int], cells: Sequence[int]) -> dict[tuple[int, int], int]:
        """Return (cell, page size in KiB) -> pages that nobody uses. Raises Unknown."""
        with self._call() as connection:
            found = {cell: connection.getFreePages(list(sizes), cell, 1) for cell in cells} if sizes else {}
        return {(cell, size): counts[cell][size] for cell, counts in found.items() for size in sizes}

    def machine_types(self) -> list[str]:
        """Return the names of the machines that a fully virtualized x86-64 guest may be here. Raises Unknown."""
        capabilities = etree.fromstring(self.capabilities().encode(), PARSER)
        found = capabilities.iterfind("guest[os_type='hvm']/arch[@name='x86_64']//machine")
        return sorted({machine.text for machine in found if machine.text})

    # -- doing

    def define(self, xml: str) -> None:
        """Define or redefine a domain. Raises Never("definition_refused" | "name_taken"), Unknown."""
        with self._call() as connection:
            try:
                connection.defineXML(xml)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
                    raise Never("name_taken", str(error))
                raise

    def create(self, uuid: str) -> None:
        """Start a defined domain; running already is no error. Raises RetryLater, Never("start_failed"), Unknown.

        libvirt says 1 (internal error) both for "the guest's process ended at once" and for "nobody knows". So the
        domain is looked at afterwards, over a connection that lives: if it is off, it was the former.
        """
        with self._call() as connection:
            domain = _lookup(connection, uuid)
            if domain is None:
                raise Unknown("domain_vanished", f"domain {uuid} vanished before its start")
            with self._explained(connection, domain):
                domain.create()

    def create_transient(self, xml: str) -> str:
        """Run a domain that leaves no definition behind; return its UUID. Raises as `create`."""
        with self._call() as connection:
            return str(connection.createXML(xml).UUIDString())

    def resume(self, uuid: str) -> None:
        """Have a paused domain go on; running already is no error. Raises Unknown, RetryLater."""
        self._act(uuid, lambda domain: domain.resume())

    def ask_to_stop(self, uuid: str, *, agent: bool = False) -> None:
        """Ask the guest to shut down: power button, or its agent or init where `agent`. Returns before it obeys."""
        self._act(uuid, lambda domain: domain.shutdownFlags(0 if agent else libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))

    def cut_power(self, uuid: str) -> None:
        """End the domain now; off or gone already is no error. Raises Unknown, RetryLater."""
        self._act(uuid, lambda domain: domain.destroy())

    def undefine(self, uuid: str) -> None:
        """Take the definition away, with what libvirt keeps beside it; gone already is no error. Raises Unknown."""
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        )

        def undefine(domain: libvirt.virDomain) -> None:
            try:
                domain.undefineFlags(flags)
            except libvirt.libvirtError as error:
                # LXC and the test driver know none of these flags, and keep none of these things.
                if error.get_error_code() not in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT):
                    raise
                domain.undefine()

        self._act(uuid, undefine)

    def migratable(self, uuid: str) -> str:
        """Return a running domain's XML as another host is to get it. Raises Never, Unknown."""
        with self._call() as connection:
            flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
            return str(connection.lookupByUUIDString(uuid).XMLDesc(flags))

    def migrate(self, uuid: str, uri: str, *, xml: str, address: str, options: MigrateOptions) -> None:
        """Copy a running domain to the host behind `uri`, daemon to daemon, and return when that has ended.

        The copy goes on when this process dies. Its definition stays here, and is none there. Takes a connection of its
        own, since it may take minutes. Raises MigrationFailed with libvirt's words; what they say is not what happened.
        """
        flags = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PEER2PEER
            | libvirt.VIR_MIGRATE_TLS
            | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
            # libvirt cannot know that a directory is shared: both ends have shown one marker, and the disk.
            | libvirt.VIR_MIGRATE_UNSAFE
        )
        if options.auto_converge:
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        parameters: dict[str, str | int] = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{address}",
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: xml,
        }
        if options.bandwidth_mib_s:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = options.bandwidth_mib_s
        _ensure_event_loop()
        try:
            connection = libvirt.open(self.uri)
            try:
                with _tolerated(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG):
                    connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
                domain = connection.lookupByUUIDString(uuid)
                with contextlib.suppress(libvirt.libvirtError):
                    domain.migrateSetMaxDowntime(options.downtime_ms)
                domain.migrateToURI3(uri, parameters, flags)
            finally:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.close()
        except libvirt.libvirtError as error:
            raise MigrationFailed(str(error)) from error

    def job(self, uuid: str) -> dict[str, int] | None:
        """Return the counters of the migration that goes out from here now, None when there is none. Raises Unknown."""
        with self._call() as connection:
            domain = _lookup(connection, uuid)
            if domain is None:
                return None
            with _tolerated(*_ALREADY_SO):
                found = domain.jobStats()
                out = found.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
                if out and found["type"] in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED):
                    return dict(found)
        return None

    def finished_job(self, uuid: str) -> dict[str, int]:
        """Return the counters of the domain's last job that came to its end; {} where none are kept."""
        with self._call() as connection:
            domain = _lookup(connection, uuid)
            if domain is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    return dict(domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED))
        return {}

    def abort_job(self, uuid: str) -> None:
        """End what is being done to the domain; nothing being done is no error. Raises Unknown, RetryLater."""
        self._act(uuid, lambda domain: domain.abortJob())

    def allow_downtime(self, uuid: str, milliseconds: int) -> None:
        """Let a migration pause the guest for so long. Raises Unknown, RetryLater."""
        self._act(uuid, lambda domain: domain.migrateSetMaxDowntime(milliseconds))

    def suspend(self, uuid: str) -> None:
        """Pause a running domain; paused already is no error. Raises Unknown, RetryLater."""
        self._act(uuid, lambda domain: domain.suspend())

    def set_metadata(self, uuid: str, xml: str, *, live: bool) -> None:
        """Replace Cenote's metadata of a domain, in its definition and, where `live`, in what runs."""
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG | (libvirt.VIR_DOMAIN_AFFECT_LIVE if live else 0)
        self._act(
            uuid,
            lambda domain: domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml, METADATA_KEY, NAMESPACE, flags),
        )

    def close(self) -> None:
        """Let go of the connection. Domains keep running."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    # -- parts

    def _act(self, uuid: str, action: Callable[[libvirt.virDomain], object]) -> None:
        """Run `action` on the domain; a domain that is gone or in the wanted state already is no error."""
        with self._call() as connection:
            domain = _lookup(connection, uuid)
            if domain is not None:
                with _tolerated(*_ALREADY_SO):
                    action(domain)

    @contextlib.contextmanager
    def _explained(self, connection: libvirt.virConnect, domain: libvirt.virDomain) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as error:
            if not connection.isAlive():
                raise
            if _look(domain).power in ("running", "paused"):
                return  # running already, whatever the code: some drivers say 55, some 1
            message = str(error)
            if "lock" in message and ("write" in message or "shared" in message):
                raise RetryLater("disk_in_use", message)
            if "Cannot allocate memory" in message or error.get_error_code() == libvirt.VIR_ERR_NO_MEMORY:
                raise RetryLater("memory_short", message)
            raise Never("start_failed", message)

    @contextlib.contextmanager
    def _call(self) -> Iterator[libvirt.virConnect]:
        with self._slots:
            try:
                connection = self._live_connection()
                yield connection
            except libvirt.libvirtError as error:
                raise translate(error) from error

    def _live_connection(self) -> libvirt.virConnect:
        if os.getpid() != self._pid:
            raise Unknown("forked", "a libvirt connection does not survive a fork; open the driver in the child")
        with self._lock:
            if self._connection is not None and self._connection.isAlive() == 1:
                return self._connection
            _ensure_event_loop()
            if self._connection is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._connection.close()
                self._connection = None
            try:
                connection = libvirt.open(self.uri)
            except libvirt.libvirtError as error:
                raise Unknown("libvirt_unreachable", f"{self.uri}: {error}") from error
            with _tolerated(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG):
                connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            self._connection = connection
            return connection


def translate(error: libvirt.libvirtError) -> RetryLater | Never | Unknown:
    """Return the contract's error for libvirt's. What is in no table is Unknown: looking again is always right."""
    code, message = error.get_error_code(), str(error)
    if code in _NEVER:
        return Never(_NEVER[code], message)
    if code in _RETRY:
        return RetryLater(_RETRY[code], message)
    return Unknown("libvirt_unknown", f"{message} (libvirt error {code})")


def _lookup(connection: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
    with _tolerated(libvirt.VIR_ERR_NO_DOMAIN):
        return connection.lookupByUUIDString(uuid)
    return None


def _look(domain: libvirt.virDomain) -> SeenDomain:
    state, _, memory_kib, _, cpu_ns = domain.info()
    power = _POWER.get(state, "paused")
    persistent = bool(domain.isPersistent())
    if power == "stopped":
        if domain.state()[1] == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED:
            power = "crashed"
        with _tolerated(libvirt.VIR_ERR_NO_SUPPORT):
            if domain.hasManagedSaveImage():
                power = "suspended"
    metadata = None
    with _tolerated(libvirt.VIR_ERR_NO_DOMAIN_METADATA):
        metadata = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
    instance_id, token = read_metadata(metadata)
    uuid = domain.UUIDString()
    return SeenDomain(
        uuid=uuid,
        name=domain.name(),
        power=power,
        persistent=persistent,
        # A copy of our metadata under another UUID is not ours: somebody cloned the definition by hand.
        instance_id=instance_id if instance_id == uuid else None,
        token=token,
        cpu_seconds=cpu_ns / 1e9,
        memory_mib=memory_kib // 1024,
        pid=max(domain.ID(), 0),
    )


@contextlib.contextmanager
def _tolerated(*codes: int) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


_event_loop: tuple[int, threading.Thread] | None = None
_event_loop_lock = threading.Lock()


def _ensure_event_loop() -> None:
    """Have libvirt's event loop run in this process. Must come before the first `open`, or keepalive does nothing."""
    global _event_loop
    with _event_loop_lock:
        if _event_loop is not None and _event_loop[0] == os.getpid() and _event_loop[1].is_alive():
            return
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised; stderr is not theirs
        thread = threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True)
        _event_loop = (os.getpid(), thread)
        thread.start()


def _run_event_loop() -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()
