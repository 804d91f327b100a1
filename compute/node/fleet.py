"""`python -m compute.node.fleet`: many fake hosts in one process, for tests of scale and of faults.

Each host is a real one to the control plane: it joins with a token of its own, fetches, journals and answers with the
code of every node worker, and sends its own heartbeats. Only the hypervisor is a fake, in memory, kept in `fake.json`
(where a test may also write faults). Hosts that joined before, under the same directory, come back as they were.

    manage.py host_join_token --pool lab >> tokens
    python -m compute.node.fleet --api http+unix:///.../web.sock --state-dir var/fleet --count 1 --tokens tokens
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from compute.broker_acl import queue_name
from compute.node import logs
from compute.node.client import ApiRefused, ApiUnavailable, Joined, NodeApi, join
from compute.node.drivers.base import DriverError
from compute.node.drivers.fake import FakeDriver, FakeHost
from compute.node.drivers.settings import DriverSettings
from compute.node.journal import Journal
from compute.node.methods import execute
from compute.node.observer import Observer
from compute.node.runner import Runner
from compute.node.settings import NodeSettings
from compute.wire import Call, CallAnswer, DomainReport, HostInventory, PartitionReport, TenantShares

log = logging.getLogger("compute.node.fleet")
START_GAP_SECONDS = 0.02  # hosts that all start in the same moment would also beat in the same moment


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fleet is: each host has a slice of `vcpus`, `memory_mib`, `disk_gib`; each call takes `delay_seconds`."""

    api: str
    state_dir: Path
    count: int
    prefix: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    delay_seconds: float
    shared_dir: Path


class FakeHypervisor:
    """A fake driver in the place of the supervised process: runs calls, and is looked through."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def run(self, call: Call) -> CallAnswer:
        began = time.monotonic()
        answer = execute(self._driver, call)
        return dataclasses.replace(answer, seconds=round(time.monotonic() - began, 4))

    def domains(self) -> tuple[DomainReport, ...] | None:
        try:
            return self._driver.list_domains()
        except DriverError:
            return None

    def disks(self) -> tuple[str, ...] | None:
        try:
            return self._driver.list_disks()
        except DriverError:
            return None

    def partitions(self) -> tuple[PartitionReport, ...] | None:
        try:
            return self._driver.list_partitions()
        except DriverError:
            return None

    def weigh(self, shares: tuple[TenantShares, ...]) -> None:
        with contextlib.suppress(DriverError):
            self._driver.weigh(shares)

    def inventory(self) -> HostInventory | None:
        try:
            return self._driver.inventory()
        except DriverError:
            return None


class FleetHost:
    """One fake host, complete."""

    def __init__(self, plan: Plan, name: str, joined: Joined) -> None:
        home = plan.state_dir / name
        driver_settings = DriverSettings(
            plan.vcpus, plan.memory_mib, plan.disk_gib, shared_dir=plan.shared_dir, local_dir=home
        )
        self.host_id = joined.host_id
        self._broker = joined.broker_url
        settings = NodeSettings(joined.host_id, joined.node_token, plan.api, "", home, "fake", driver_settings)
        driver = FakeDriver(driver_settings, FakeHost.load(home / "fake.json"), delay_seconds=plan.delay_seconds)
        hypervisor = FakeHypervisor(driver)
        self._journal = Journal(home / "journal.sqlite")
        api = NodeApi(settings)
        self.runner = Runner(api, self._journal, hypervisor, on_finished=lambda: self.observer.poke())
        self.observer = Observer(api, hypervisor, self.runner, boot=f"boot-of-{name}")

    def start(self) -> None:
        """Begin to sweep, report and listen, in threads that end with the process."""
        parts = [self.runner.run, self.observer.run]
        if self._broker:
            parts.append(self._listen)
        for part in parts:
            threading.Thread(target=part, name=self.host_id, daemon=True).start()

    def stop(self) -> None:
        self.observer.stop()
        self.runner.stop(0)

    def _listen(self) -> None:
        """Hear the doorbell without a Celery of its own for each host: what a message says is not believed anyway."""
        # redis-py and kombu write the address of a unix socket differently.
        client = redis.Redis.from_url(self._broker.replace("redis+socket://", "unix://"), socket_timeout=15)
        while True:
            try:
                if client.brpop([queue_name(self.host_id)], timeout=5):
                    self.runner.wake()
            except redis.RedisError:
                time.sleep(2)


def enrol(plan: Plan, tokens: Iterator[str]) -> list[FleetHost]:
    """Return the fleet's hosts, joining those that are new. Raises ApiRefused, ApiUnavailable, LookupError."""
    hosts = []
    for number in range(1, plan.count + 1):
        name = f"{plan.prefix}{number:03d}"
        file = plan.state_dir / name / "joined.json"
        if file.exists():
            joined = Joined(**json.loads(file.read_text()))
        else:
            token = next(tokens, None)
            if token is None:
                raise LookupError(f"no join token is left for {name}: each host needs its own")
            joined = join(plan.api, token=token, name=name, address=f"192.0.2.{number % 254 + 1}", csr_pem=_csr(name))
            file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            part = file.with_suffix(".part")
            part.touch(mode=0o600)
            part.write_text(json.dumps(dataclasses.asdict(joined)))
            part.replace(file)
        hosts.append(FleetHost(plan, name, joined))
    return hosts


def _csr(name: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compute.node.fleet", description="Many fake hosts in one process.")
    parser.add_argument("--api", required=True, help="https:// address, or http+unix:// and a socket's path")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--shared-dir", type=Path, help="the pool's storage, for its marker (default: the state dir)")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--tokens", default="-", help="file of join tokens, one a line; - for standard input")
    parser.add_argument("--prefix", default="fake", help="hosts are called <prefix>001 and so on")
    parser.add_argument("--vcpus", type=int, default=4)
    parser.add_argument("--memory-mib", type=int, default=4096)
    parser.add_argument("--disk-gib", type=int, default=100)
    parser.add_argument("--delay-seconds", type=float, default=0.0, help="how long each driver call takes")
    return parser.parse_args()


def _read_tokens(name: str) -> Iterator[str]:
    with sys.stdin if name == "-" else Path(name).open() as lines:
        yield from (line.strip() for line in lines if line.strip())


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    logs.set_up()
    given = _arguments()
    plan = Plan(
        api=given.api,
        state_dir=given.state_dir,
        count=given.count,
        prefix=given.prefix,
        vcpus=given.vcpus,
        memory_mib=given.memory_mib,
        disk_gib=given.disk_gib,
        delay_seconds=given.delay_seconds,
        shared_dir=given.shared_dir or given.state_dir,
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        hosts = enrol(plan, _read_tokens(given.tokens))
    except (ApiRefused, ApiUnavailable, LookupError, OSError) as error:
        log.error("the fleet could not be made: %s", error)
        return 1
    for host in hosts:
        host.start()
        ended.wait(START_GAP_SECONDS)
    log.info("a fleet of %s hosts listens", len(hosts))
    ended.wait()
    for host in hosts:
        host.stop()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # not sys.exit: its wait for blocked threads would last as long as their requests
