"""The runs of `placement_speed`, inside Django and its database. Started by it; see there."""

from __future__ import annotations

import cProfile
import http.client
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from django.apps import apps
from django.db import connection, connections
from psycopg import sql

from cloud import collector
from compute.errors import NoValidHost
from compute.models import Allocation, Host
from compute.selectors.invariants import check_all
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tenants.services.access import Actor, actor_for_user
from tests.benchmarks.placement_speed import options
from tests.factories.compute import make_flavor, make_image, make_pool
from tests.factories.tenants import make_member, make_tenant, make_token

WARM_UP_SECONDS = 2.0
WARM_UP_ACTS = 60  # a new session plans and caches for a while
SIZES = ((64, 262_144), (96, 393_216), (128, 524_288))  # vCPU, MiB: three generations of hosts
_fork = multiprocessing.get_context("fork")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Client:
    """One caller: its tenant, who it is, and its token."""

    tenant: Tenant
    actor: Actor
    token: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of all clients gave. Seconds; CPU by kind of process."""

    latencies: list[float]
    seconds: float
    cpu: dict[str, float]

    def line(self, name: str, hosts: int, roots: str) -> str:
        count = len(self.latencies)
        ordered = sorted(self.latencies)
        cpu = "  ".join(f"{kind} {1000 * used / count:.2f}" for kind, used in self.cpu.items())
        return (
            f"{name:9}{hosts:>7}{roots:>5}{count / self.seconds:>9.0f}/s"
            f"{1000 * statistics.median(ordered):>8.1f}{1000 * ordered[int(count * 0.99)]:>8.1f}{1000 * ordered[-1]:>8.1f}"
            f"{1000 * sum(self.cpu.values()) / count:>8.2f}  ({cpu})  load {os.getloadavg()[0]:.1f}"
        )


def empty() -> None:
    """Empty every table of ours: each run begins in the same state."""
    tables = [
        sql.Identifier(model._meta.db_table)
        for app in ("compute", "tenants", "api")
        for model in apps.get_app_config(app).get_models()
    ]
    connection.ensure_connection()
    assert connection.connection is not None
    connection.connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(tables)))


def furnish(hosts: int, clients: int, roots: str) -> list[Client]:
    """Make a pool of empty hosts of three sizes, the catalogue, and a tenant for each client."""
    empty()
    pool = make_pool("bench", vcpu_ratio=4.0, cidr="10.128.0.0/20")
    pool.networks.update(cidr="10.128.0.0/9", gateway="10.128.0.1")
    rows = []
    for number in range(hosts):
        vcpus, memory = SIZES[number % len(SIZES)]
        rows.append(
            Host(
                name=f"bench-{number:05}",
                pool=pool,
                address=f"10.97.{number // 250}.{number % 250 + 1}",
                admin_state="enabled",
                observed_state="up",
                modes=["kvm", "lxc"],
                total_vcpus=vcpus,
                total_memory_mib=memory,
                total_disk_gib=8000,
                ceiling_vcpus=vcpus * 4,
                ceiling_memory_mib=memory,
                ceiling_disk_gib=8000,
                facts={"cpu_model": "EPYC-Rome", "libvirt_version": "9.0.0", "kernel": "6.1.0-18-amd64"},
            )
        )
    Host.objects.bulk_create(rows, batch_size=1000)
    make_flavor("small", vcpus=1, memory_mib=1024, disk_gib=4)
    make_flavor("giant", vcpus=1, memory_mib=2**24, disk_gib=4)
    make_image("tiny")
    root = make_tenant("root", limits={"instances": 10**9, "vcpus": 10**9}) if roots == "one" else None
    made = []
    for number in range(clients):
        tenant = make_tenant(f"tenant-{number}", parent=root, limits={"instances": 10**9, "vcpus": 10**9})
        user = make_member(tenant, "operator").user
        made.append(Client(tenant, actor_for_user(user=user, tenant_id=tenant.id), make_token(user, tenant)))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        cursor.execute("CHECKPOINT")
    return made


def cpu_of(root: int) -> float:
    """Return the CPU seconds of a process, its children that run, and those that it has buried."""
    stat = Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()
    used = sum(map(int, stat[11:15])) / _TICK
    for task in Path(f"/proc/{root}/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                used += cpu_of(int(child))
    return used


def postgres_pid() -> int:
    return int((Path(os.environ["CENOTE_BENCH_POSTGRES"]) / "postmaster.pid").read_text().split()[0])


def run(
    clients: list[Client], seconds: float, prepare: Callable[[Client], Callable[[], None]], kinds: dict[str, int]
) -> Outcome:
    """Have each client, a process of its own, do the same thing again and again; the first seconds do not count.

    `prepare` is called in the client's process and returns the act. `kinds`: further processes whose CPU is counted.
    """
    connections.close_all()
    gate = _fork.Barrier(len(clients) + 1)
    answers: Any = _fork.Queue()

    def work(client: Client) -> None:
        try:
            act = prepare(client)
            stop, acts = time.monotonic() + WARM_UP_SECONDS, 0
            while time.monotonic() < stop or acts < WARM_UP_ACTS:
                act()
                acts += 1
            gate.wait(120)
            before, took = time.process_time(), []
            stop = (then := time.monotonic()) + seconds
            while then < stop:
                act()
                now = time.monotonic()
                took.append(now - then)
                then = now
            answers.put((took, time.process_time() - before))
            gate.wait(60)
        except BaseException:
            gate.abort()
            raise

    workers = [_fork.Process(target=work, args=(client,), daemon=True) for client in clients]
    for worker in workers:
        worker.start()
    kinds = {"postgres": postgres_pid(), **kinds}
    gate.wait(180)
    began, before = time.monotonic(), {kind: cpu_of(pid) for kind, pid in kinds.items()}
    results = [answers.get(timeout=seconds + 60) for _ in workers]
    took = time.monotonic() - began
    used = {kind: cpu_of(pid) - before[kind] for kind, pid in kinds.items()}
    gate.wait(60)
    for worker in workers:
        worker.join(30)
    return Outcome(
        latencies=[latency for latencies, _ in results for latency in latencies],
        seconds=took,
        cpu={"clients": sum(cpu for _, cpu in results), **used},
    )


# --- what the clients do ----------------------------------------------------------------------------------------------


def floor(client: Client) -> Callable[[], None]:
    """The least that a placement is: pick, claim, charge, commit, with prepared statements."""
    database = connection.settings_dict
    link = psycopg.connect(
        host=database["HOST"], user=database["USER"], dbname=database["NAME"], autocommit=True, prepare_threshold=1
    )
    hosts = itertools.cycle([row[0] for row in link.execute("SELECT id FROM compute_host ORDER BY random()")])
    levels = client.tenant.path[::-1]

    def act() -> None:
        host = next(hosts)
        with link.transaction():
            link.execute(
                "UPDATE compute_host SET used_vcpus = used_vcpus + 1, used_memory_mib = used_memory_mib + 1024, "
                "used_disk_gib = used_disk_gib + 4, used_instances = used_instances + 1 WHERE id = %s "
                "AND used_vcpus + 1 <= ceiling_vcpus AND used_memory_mib + 1024 <= ceiling_memory_mib "
                "AND used_disk_gib + 4 <= ceiling_disk_gib",
                [host],
            )
            link.execute(
                "INSERT INTO compute_allocation (id, host_id, consumer_type, consumer_id, vcpus, memory_mib, disk_gib, "
                "dedicated_vcpus, dedicated_memory_mib, created_at) "
                "VALUES (gen_random_uuid(), %s, 'instance', gen_random_uuid(), 1, 1024, 4, 0, 0, now())",
                [host],
            )
            for level in levels:
                link.execute(
                    "UPDATE tenants_quota SET used = used + 1 WHERE tenant_id = %s AND resource = 'instances' "
                    'AND ("limit" IS NULL OR used + 1 <= "limit")',
                    [level],
                )

    return act


def in_process(client: Client) -> Callable[[], None]:
    numbers = itertools.count()
    collector.spare()  # as in a web worker

    def act() -> None:
        create_instances(
            actor=client.actor, tenant=client.tenant, name=f"bench-{next(numbers)}", flavor="small", image="tiny"
        )

    return act


def refused(client: Client) -> Callable[[], None]:
    def act() -> None:
        try:
            create_instances(actor=client.actor, tenant=client.tenant, name="giant", flavor="giant", image="tiny")
        except NoValidHost:
            return
        raise AssertionError("the giant was placed")

    return act


def over_http(port: int, keys: bool) -> Callable[[Client], Callable[[], None]]:
    def prepare(client: Client) -> Callable[[], None]:
        link = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
        numbers = itertools.count()

        def act() -> None:
            body = json.dumps({"name": f"bench-{next(numbers)}", "flavor": "small", "image": "tiny"})
            more = {"Idempotency-Key": uuid.uuid4().hex} if keys else {}
            link.request("POST", "/api/v1/instances", body, {**headers, **more})
            answer = link.getresponse()
            text = answer.read()
            if answer.status != 202:
                raise AssertionError(text)

        return act

    return prepare


@contextmanager
def web() -> Iterator[tuple[int, int]]:
    """Gunicorn with the words of `deploy/steps/control.py`; yields its port and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = "--worker-class gthread --workers 2 --threads 24 --timeout 90 --keep-alive 75 --preload --max-requests 0"
    command = [sys.executable, "-m", "gunicorn", "cloud.wsgi", *words.split(), "--log-level", "error"]
    process = subprocess.Popen([*command, "--bind", f"127.0.0.1:{port}", "--worker-tmp-dir", "/dev/shm"])
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(20)


def profile(client: Client, target: str) -> None:
    """One client alone, under cProfile."""
    act = in_process(client)
    for _ in range(100):
        act()
    watch = cProfile.Profile()
    watch.enable()
    for _ in range(500):
        act()
    watch.disable()
    watch.dump_stats(target)


def main() -> None:
    choice = options()
    print(f"{choice.clients} clients, {os.cpu_count()} cores, {choice.seconds:.0f} s each; milliseconds")
    print(f"{'':9}{'hosts':>7}{'root':>5}{'rate':>11}{'median':>8}{'p99':>8}{'max':>8}{'CPU':>8}", flush=True)
    for hosts in choice.hosts:
        for roots in choice.roots:
            clients = furnish(hosts, choice.clients, roots)
            if choice.profile:
                profile(clients[0], choice.profile)
            if "floor" in choice.parts:
                print(run(clients, choice.seconds, floor, {}).line("floor", hosts, roots), flush=True)
                clients = furnish(hosts, choice.clients, roots)
            if "process" in choice.parts:
                print(run(clients, choice.seconds, in_process, {}).line("process", hosts, roots), flush=True)
            if "http" in choice.parts:
                with web() as (port, pid):
                    outcome = run(clients, choice.seconds, over_http(port, choice.keys), {"gunicorn": pid})
                print(outcome.line("http", hosts, roots), flush=True)
            if "refusal" in choice.parts and roots == choice.roots[0]:
                print(run(clients[:1], choice.seconds / 2, refused, {}).line("refusal", hosts, roots), flush=True)
            wrong = check_all()
            if wrong:
                sys.exit(f"the ledger is wrong: {wrong[:5]}")
            connections.close_all()
    print(f"the ledger holds; {Allocation.objects.count()} allocations in the last world")
