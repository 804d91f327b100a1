"""Live migration as one host does its part: it takes guests in, sends them off, and says how far that is.

The source's daemon copies a guest to the destination's (peer to peer, over TLS), so neither this process nor its caller is
needed until it ends. What is known of a job beside libvirt's own counters stands in a file on the source: that it was begun,
since when, and how it ended. A worker that comes after a crash reads it and goes on.

The ladder (https://www.qemu.org/docs/master/devel/migration/main.html): a guest that writes faster than the link carries
would be copied for ever. Once all memory was sent, each `rung_seconds` allows twice the pause, up to the job's limit; then
the job is given up, or the guest paused for the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lxml import etree

from compute.node.drivers.base import MIGRATE_WAIT_SECONDS, Never, RetryLater, Unknown
from compute.node.drivers.libvirt.connection import MigrateOptions, MigrationFailed, SeenDomain
from compute.node.drivers.libvirt.kind import ACTIVE, GuestKind
from compute.node.drivers.libvirt.metadata import PARSER, metadata_text
from compute.node.drivers.libvirt.partitions import Partitions
from compute.node.drivers.libvirt.xml import to_text
from compute.node.drivers.network import PortManager
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import instance_paths, read_marker
from compute.wire import (
    DomainLook,
    InstanceSpec,
    Landing,
    Message,
    MigrationJob,
    MigrationStatus,
    PowerState,
    Readiness,
)
from compute.wire.migration import Rung

log = logging.getLogger(__name__)
LOOK_AGAIN_SECONDS: Final = 0.05
ARRIVAL_SECONDS: Final = 900.0  # how long a partition is kept for a guest that was announced
TLS_PORT_URI: Final = "qemu+tls://{address}/system"


@dataclass(frozen=True, slots=True)
class JobFile(Message):
    """What is kept of the newest job of one instance. `begun` and `full_at` are seconds since the epoch.

    `full_at`: when all memory had been sent once, 0 before. `giving_up`: why it was aborted. `end` None while it goes on.
    """

    job_id: str
    begun: float
    full_at: float = 0.0
    downtime_ms: int = 0
    rung: Rung = "copy"
    giving_up: str = ""
    end: MigrationStatus | None = None


class Migrations:
    """The migrations of one host's VMs, in and out. Safe for many threads; one process at a time keeps them."""

    def __init__(self, settings: DriverSettings, vms: GuestKind, network: PortManager, partitions: Partitions) -> None:
        self._settings = settings
        self._vms = vms
        self._hypervisor = vms.hypervisor
        self._network = network
        self._partitions = partitions
        self._lock = threading.Lock()
        self._at_work: dict[str, threading.Thread] = {}  # by instance: waits here for a job's end

    # -- destination

    def receive(self, spec: InstanceSpec, *, storage_id: str) -> Readiness:
        """See Driver.receive."""
        obstacles = {}
        own = read_marker(self._settings.shared_dir)
        if spec.kind != "vm":
            obstacles["not_a_vm"] = "a container cannot be moved while it runs"
        if not own or own != storage_id:
            obstacles["storage_not_shared"] = f"this host sees the storage {own or 'none'}, the source {storage_id}"
        elif not self._vms.has_storage(instance_paths(self._settings, spec.id)):
            obstacles["disk_missing"] = f"this host does not find the disk of {spec.id} in the shared storage"
        try:
            seen = self._vms.find(spec.id)
            if seen is not None and seen.power in ACTIVE:
                obstacles["runs_here"] = f"domain {seen.name} is {seen.power} here already"
            cpus = self._vms.shared_cpus(spec)
        except Never as error:
            obstacles[error.code] = str(error)
        if obstacles:
            return Readiness(obstacles)
        self._vms.make_room(spec)
        partition = self._partitions.expect(spec.partition, ARRIVAL_SECONDS)
        return Readiness(landing=Landing(partition or "", cpus))

    def adopt(self, spec: InstanceSpec, *, token: int, resume: bool) -> PowerState:
        """See Driver.adopt."""
        seen = self._vms.find(spec.id)
        if seen is None:
            raise Never("domain_absent", f"{spec.id} is not on this host")
        # Built anew, not what came over the wire: what the next boot shows is what the control plane knows (B46).
        self._vms.define_anew(spec, token, seen)
        if seen.power in ACTIVE:
            self._hypervisor.set_metadata(spec.id, metadata_text(spec, token), live=True)
        if seen.power == "paused" and resume:
            self._hypervisor.resume(spec.id)
        for nic in spec.nics:
            self._network.announce_port(nic.device)
        after = self._vms.find(spec.id)
        return "absent" if after is None else after.power

    # -- source

    def migrate(self, spec: InstanceSpec, job: MigrationJob, *, stop: bool) -> MigrationStatus:
        """See Driver.migrate."""
        deadline = time.monotonic() + MIGRATE_WAIT_SECONDS
        refused = self._begin(spec, job)
        if refused is not None:
            return refused
        while True:
            kept = self._kept(spec.id)
            if kept is None or kept.job_id != job.id:
                return MigrationStatus(ended="absent", code="job_lost", message="what was kept of the job is gone")
            if kept.end is not None:
                return kept.end
            counters = self._hypervisor.job(spec.id)
            if counters is None and not self._is_at_work(spec.id):
                return self._end(spec.id, kept, self._found(spec.id))
            if counters is not None:
                kept = self._tend(spec.id, kept, job, counters, stop=stop)
            if time.monotonic() >= deadline:
                return _status(counters or {}, kept)
            time.sleep(LOOK_AGAIN_SECONDS)

    def look(self, instance_id: str) -> DomainLook:
        """See Driver.look."""
        seen = self._vms.find(instance_id)
        if seen is None:
            return DomainLook("absent")
        outgoing = seen.power in ACTIVE and (
            self._is_at_work(instance_id) or self._hypervisor.job(instance_id) is not None
        )
        incoming = seen.power == "paused" and not outgoing and not seen.persistent
        return DomainLook(seen.power, incoming=incoming, outgoing=outgoing, persistent=seen.persistent)

    # -- parts

    def _begin(self, spec: InstanceSpec, job: MigrationJob) -> MigrationStatus | None:
        """Begin the job if it never was; return why there is nothing to begin, None otherwise."""
        with self._lock:
            kept = self._kept(spec.id)
            if kept is not None and kept.job_id == job.id:
                return None
            seen = self._vms.find(spec.id)
            if seen is None:
                return MigrationStatus(ended="absent", message="no such domain is here")
            if seen.power != "running":
                return MigrationStatus(ended="stayed", code="not_running", message=f"it is {seen.power}")
            if self._hypervisor.job(spec.id) is not None:
                raise RetryLater("domain_busy", f"another job of domain {seen.name} is going on")
            kept = JobFile(job.id, time.time(), downtime_ms=job.downtime_ms)
            # Written before it begins: a worker that dies here finds a job that was lost, and never begins it twice.
            self._keep(spec.id, kept)
            xml = self._landed(spec, job, seen)
            thread = threading.Thread(target=self._send, args=(spec.id, xml, job), name="migration", daemon=True)
            self._at_work[spec.id] = thread
            thread.start()
            return None

    def _landed(self, spec: InstanceSpec, job: MigrationJob, seen: SeenDomain) -> str:
        """Return the domain as the destination is to run it: the guest's own machine, in the destination's partition."""
        domain = etree.fromstring(self._hypervisor.migratable(spec.id).encode(), PARSER)
        for resource in domain.findall("resource"):
            domain.remove(resource)
        if job.landing.partition:
            resource = etree.SubElement(domain, "resource")
            etree.SubElement(resource, "partition").text = job.landing.partition
        vcpu = domain.find("vcpu")
        if vcpu is not None:
            vcpu.attrib.pop("cpuset", "")
            if job.landing.cpus:
                vcpu.set("cpuset", ",".join(map(str, job.landing.cpus)))
        return to_text(domain)

    def _send(self, instance_id: str, xml: str, job: MigrationJob) -> None:
        options = MigrateOptions(
            auto_converge=job.auto_converge,
            bandwidth_mib_s=job.bandwidth_mib_s,
            downtime_ms=job.downtime_ms,
        )
        failure = ""
        try:
            uri = TLS_PORT_URI.format(address=job.destination_address)
            self._hypervisor.migrate(instance_id, uri, xml=xml, address=job.destination_address, options=options)
        except MigrationFailed as error:
            failure = str(error)
        except Exception as error:
            log.exception("the migration of %s ended oddly", instance_id)
            failure = f"{type(error).__name__}: {error}"
        try:
            with contextlib.suppress(Unknown, RetryLater, Never, OSError):
                kept = self._kept(instance_id)
                if kept is not None and kept.job_id == job.id and kept.end is None:
                    self._end(instance_id, kept, self._found(instance_id, failure))
        finally:
            with self._lock:
                self._at_work.pop(instance_id, None)

    def _found(self, instance_id: str, failure: str = "job_lost") -> MigrationStatus:
        """Return how a job ended, by what is here now."""
        seen = self._vms.find(instance_id)
        if seen is None:
            return MigrationStatus(ended="absent", message=failure)
        if seen.power in ACTIVE:
            return MigrationStatus(ended="stayed", code=_code(failure), message=failure)
        return MigrationStatus(ended="moved" if not failure else "absent", message=failure)

    def _end(self, instance_id: str, kept: JobFile, found: MigrationStatus) -> MigrationStatus:
        """Keep how it ended, with the job's own figures, and return it."""
        counters = self._hypervisor.finished_job(instance_id) if found.ended == "moved" else {}
        # Without the hypervisor's own figures (its daemon died) the guest's pause is not known, and not guessed.
        figures = _status({"downtime": 0, **counters}, kept)
        code = kept.giving_up if found.ended == "stayed" and kept.giving_up else found.code
        end = dataclasses.replace(figures, ended=found.ended, code=code, message=found.message[:500], eta_seconds=None)
        self._keep(instance_id, dataclasses.replace(kept, end=end))
        return end

    def _tend(
        self, instance_id: str, kept: JobFile, job: MigrationJob, counters: dict[str, int], *, stop: bool
    ) -> JobFile:
        """Climb the ladder, or give the job up; return what is kept of it from now on."""
        now = time.time()
        after = kept
        if not kept.full_at and counters.get("memory_iteration", 0) >= 2:
            after = dataclasses.replace(after, full_at=now, rung="converge" if job.auto_converge else "copy")
        why = kept.giving_up
        if not why:
            why = "cancelled" if stop else "deadline" if now >= kept.begun + job.deadline_seconds else ""
        if not why and after.full_at:
            rungs = int((now - after.full_at) / job.rung_seconds)
            allowed = min(job.downtime_ms * 2**rungs, job.downtime_limit_ms) if rungs < 32 else job.downtime_limit_ms
            if allowed > after.downtime_ms:
                self._hypervisor.allow_downtime(instance_id, allowed)
                after = dataclasses.replace(after, downtime_ms=allowed, rung="downtime")
            elif after.downtime_ms >= job.downtime_limit_ms and now >= self._top(after, job):
                if job.at_the_end == "pause":
                    if after.rung != "pause":
                        self._hypervisor.suspend(instance_id)
                        after = dataclasses.replace(after, rung="pause")
                else:
                    why = "not_converging"
        if why:
            after = dataclasses.replace(after, giving_up=why)
            if after != kept:
                self._keep(instance_id, after)
            self._hypervisor.abort_job(instance_id)
            return after
        if after != kept:
            self._keep(instance_id, after)
        return after

    @staticmethod
    def _top(kept: JobFile, job: MigrationJob) -> float:
        """Return when the last rung of allowed pauses has had its time too."""
        rungs = 0
        while job.downtime_ms * 2**rungs < job.downtime_limit_ms:
            rungs += 1
        return kept.full_at + (rungs + 1) * job.rung_seconds

    def _is_at_work(self, instance_id: str) -> bool:
        with self._lock:
            thread = self._at_work.get(instance_id)
            return thread is not None and thread.is_alive()

    def _file(self, instance_id: str) -> Path:
        return instance_paths(self._settings, instance_id).local / "migration.json"

    def _kept(self, instance_id: str) -> JobFile | None:
        try:
            return JobFile.from_json(json.loads(self._file(instance_id).read_text("utf-8")))
        except (FileNotFoundError, ValueError):
            return None

    def _keep(self, instance_id: str, kept: JobFile) -> None:
        file = self._file(instance_id)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = file.with_name(f"migration.{os.getpid()}.{threading.get_ident()}.part")
        part.write_text(json.dumps(kept.to_json()), "utf-8")
        part.replace(file)


def _code(failure: str) -> str:
    """Return a stable word for libvirt's sentence on a failed migration."""
    if failure == "job_lost":
        return failure
    if "onnect" in failure or "keepalive" in failure or "TLS" in failure:
        return "connection_lost"
    return "refused"


def _status(counters: dict[str, int], kept: JobFile) -> MigrationStatus:
    """Return libvirt's counters (https://libvirt.org/html/libvirt-libvirt-domain.html#VIR_DOMAIN_JOB_TIME_ELAPSED) as ours."""
    total, done = counters.get("data_total", 0), counters.get("data_processed", 0)
    remaining, rate = counters.get("data_remaining", 0), float(counters.get("memory_bps", 0))
    dirty = float(counters.get("memory_dirty_rate", 0) * counters.get("memory_page_size", 4096))
    elapsed = counters.get("time_elapsed")
    return MigrationStatus(
        elapsed_seconds=round(elapsed / 1000 if elapsed is not None else max(time.time() - kept.begun, 0.0), 3),
        total_bytes=total,
        done_bytes=done,
        remaining_bytes=remaining,
        bytes_per_second=rate,
        dirty_bytes_per_second=dirty,
        iterations=counters.get("memory_iteration", 0),
        downtime_ms=float(counters.get("downtime", kept.downtime_ms)),
        throttle_percent=counters.get("auto_converge_throttle", 0),
        rung=kept.rung,
        eta_seconds=round(remaining / (rate - dirty), 1) if rate > dirty else None,
    )
