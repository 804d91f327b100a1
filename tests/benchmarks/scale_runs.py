"""The runs of `scale`, inside Django and its database. Started by it; see there."""

from __future__ import annotations

import http.client
import math
import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.db import connection, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from compute.models import Domain, Flavor, Host, Instance, Port, SetAside
from compute.reconcilers import hosts, instances, operations, promises
from compute.selectors.invariants import run_checks
from compute.services import nodes
from compute.services.grants import Terms, create_grant
from compute.wire import HostReport
from tenants.models import Tenant, User
from tests.benchmarks.large_cloud import ACTOR, LargeCloud, fill_cloud
from tests.benchmarks.placement_runs import web
from tests.benchmarks.scale import options
from tests.factories.tenants import make_member, make_token, make_user

LIST_MS, PAGE_MS, CAPACITY_MS, REPORT_MS, BEAT_MS = 200.0, 400.0, 1000.0, 2000.0, 50.0
AUDIT_SECONDS, TURN_SECONDS = 60.0, 3.0
ROUNDS, MOST_SECONDS = 30, 8.0
_DEEP_PAGES = 50


@dataclass(frozen=True, slots=True)
class Read:
    """One GET: its name in the table, its path, the headers that say who asks, and the milliseconds that its p95 may take."""

    name: str
    path: str
    headers: dict[str, str]
    bound: float


@dataclass(slots=True)
class Table:
    """What was measured, line by line, and whether all of it kept its bounds."""

    passed: list[str] = field(default_factory=list)

    def add(self, name: str, milliseconds: float, bound: float, more: str) -> None:
        over = milliseconds > bound
        if over:
            self.passed.append(name)
        print(f"{name:44}{more}  bound {bound:7.0f}{'  PASSED' if over else ''}", flush=True)


def main() -> None:
    choice, table = options(), Table()
    cloud = _furnish(choice.hosts, choice.instances, choice.grants, table)
    if "http" in choice.parts:
        _reads(cloud, choice.only, table)
    if "books" in choice.parts:
        _books(table)
    if "turns" in choice.parts:
        _turns(table)
    if "beats" in choice.parts:
        _beats(choice.hosts, table)
    print(f"load {os.getloadavg()[0]:.1f}")
    if table.passed:
        sys.exit(f"past their bounds: {', '.join(table.passed)}")


def _furnish(host_count: int, instance_count: int, grants: int, table: Table) -> LargeCloud:
    began = time.monotonic()
    cloud = fill_cloud(hosts=host_count, instances=instance_count)
    print(f"filled in {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    flavor = Flavor.objects.get(name="medium")
    seconds = []
    for root in cloud.roots[:grants]:
        began = time.monotonic()
        create_grant(actor=ACTOR, tenant=root, pool=cloud.pool, flavor=flavor, terms=Terms(units=50))
        seconds.append(time.monotonic() - began)
    if seconds:
        more = f"median {statistics.median(seconds) * 1000:8.0f}  largest {max(seconds) * 1000:8.0f} ms"
        table.add("grant of 50 units, all hosts held", max(seconds) * 1000, TURN_SECONDS * 1000, more)
    return cloud


def _reads(cloud: LargeCloud, only: str, table: Table) -> None:
    operator, person, leader = _user("operator", is_operator=True), _user("person"), _user("leader")
    make_member(cloud.deep, "viewer", person)
    make_member(cloud.roots[0], "owner", leader)
    reads = list(_api(cloud, operator, person, leader)) + list(_pages(cloud, operator, person, leader))
    connections.close_all()
    with web() as (port, _):
        for read in reads:
            if only in read.name:
                _measure(port, read, table)


def _user(name: str, *, is_operator: bool = False) -> User:
    return make_user(f"{name}-{secrets.token_hex(3)}", is_operator=is_operator)


def _bearer(user: User, tenant: Tenant | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(user, tenant)}"}


def _session(user: User) -> dict[str, str]:
    client = Client()
    client.force_login(user)
    return {"Cookie": f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"}


def _api(cloud: LargeCloud, operator: User, person: User, leader: User) -> Iterator[Read]:
    all_of_it, leaf, root = _bearer(operator, None), _bearer(person, cloud.deep), _bearer(leader, cloud.roots[0])
    host = Host.objects.order_by("-name").first()
    port = Port.unscoped.order_by("id").last()
    assert host is not None
    assert port is not None
    some = Instance.unscoped.order_by("id")[100]
    base = "/api/v1/instances"
    yield Read("instances, whole cloud", base, all_of_it, LIST_MS)
    yield Read("instances, whole cloud, 200 a page", f"{base}?limit=200", all_of_it, 2 * LIST_MS)
    yield Read("instances, whole cloud, 10,000 rows deep", _deep(base, all_of_it), all_of_it, LIST_MS)
    yield Read("instances, one leaf", base, leaf, LIST_MS)
    yield Read("instances, a root of 10 leaves", base, root, LIST_MS)
    yield Read("instances, a root, 2,000 rows deep", _deep(base, root, pages=10), root, LIST_MS)
    for name, words in {
        "state active": {"state": "active"},
        "state error (none)": {"state": "error"},
        "kind container": {"kind": "container"},
        "flavor": {"flavor": "medium"},
        "host": {"host": host.name},
        "name": {"name": some.name},
        "tenant": {"tenant": str(cloud.deep.id)},
        "search, common": {"search": "small"},
        "search, rare": {"search": "l-12345"},
        "search, none": {"search": "nothing-like-this"},
        "search, address": {"search": port.address},
    }.items():
        yield Read(f"instances, {name}", f"{base}?{urlencode(words)}", all_of_it, LIST_MS)
        if name.startswith("search"):
            yield Read(f"instances of a root, {name}", f"{base}?{urlencode(words)}", root, LIST_MS)
    yield Read("one instance by id", f"{base}/{some.id}", all_of_it, LIST_MS)
    yield Read("one instance by name", f"{base}/{some.name}", all_of_it, LIST_MS)
    yield Read("hosts", "/api/v1/hosts", all_of_it, LIST_MS)
    yield Read("hosts, 5,000 rows deep", _deep("/api/v1/hosts", all_of_it, pages=25), all_of_it, LIST_MS)
    for noun in ("operations", "decisions"):
        yield Read(f"{noun}, whole cloud", f"/api/v1/{noun}", all_of_it, LIST_MS)
        yield Read(f"{noun}, a root", f"/api/v1/{noun}", root, LIST_MS)
    yield Read("operations, failed (none)", "/api/v1/operations?state=failed", all_of_it, LIST_MS)
    yield Read("audit", "/api/v1/audit", all_of_it, LIST_MS)
    yield Read("pools", "/api/v1/pools", all_of_it, LIST_MS)
    yield Read("grants", "/api/v1/grants", all_of_it, LIST_MS)
    yield Read("capacity of a pool", f"/api/v1/pools/{cloud.pool.id}/capacity", all_of_it, CAPACITY_MS)
    yield Read("losses of a pool", f"/api/v1/pools/{cloud.pool.id}/losses", all_of_it, REPORT_MS)
    yield Read("usage, one leaf", "/api/v1/usage", leaf, REPORT_MS)
    yield Read("usage, whole cloud", "/api/v1/usage", all_of_it, REPORT_MS)


def _deep(path: str, headers: dict[str, str], *, pages: int = _DEEP_PAGES) -> str:
    """The address of a page some way down, by going there."""
    client, query = Client(headers=headers, SERVER_NAME="localhost"), {"limit": "200"}
    for _ in range(pages):
        answer = client.get(path, query).json()
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
    return f"{path}?{urlencode(query | {'limit': '50'})}"


def _pages(cloud: LargeCloud, operator: User, person: User, leader: User) -> Iterator[Read]:
    console, leaf, root = _session(operator), _session(person), _session(leader)
    host = Host.objects.order_by("name").first()
    assert host is not None
    for name, path in {
        "overview": "/console/",
        "capacity": "/console/capacity",
        "hosts": "/console/hosts",
        "host": f"/console/hosts/{host.id}",
        "pools": "/console/pools",
        "promises": "/console/grants",
        "operations": "/console/operations",
        "tenants": "/console/tenants",
        "tenant": f"/console/tenants/{cloud.roots[0].id}",
        "decisions": "/console/decisions",
        "books": "/console/books",
        "audit trail": "/console/audit",
        "audit trail of a name": "/console/audit?q=small-12345",
    }.items():
        yield Read(f"console, {name}", path, console, CAPACITY_MS if name == "capacity" else PAGE_MS)
    yield Read("console, losses", "/console/hosts/losses", console, REPORT_MS)
    yield Read("console, usage of the month", "/console/usage", console, REPORT_MS)
    for who, session in (("leaf", leaf), ("root", root)):
        yield Read(f"portal, dashboard of a {who}", "/", session, PAGE_MS)
        yield Read(f"portal, instances of a {who}", "/instances", session, PAGE_MS)
        for state in ("running", "busy", "trouble"):
            yield Read(f"portal, {state} instances of a {who}", f"/instances?state={state}", session, PAGE_MS)
        yield Read(f"portal, search in a {who}", "/instances?q=small", session, PAGE_MS)
        yield Read(f"portal, usage of a {who}", "/usage", session, REPORT_MS)


def _measure(port: int, read: Read, table: Table) -> None:
    link = http.client.HTTPConnection("127.0.0.1", port)
    seconds: list[float] = []
    size = 0
    end = time.monotonic() + MOST_SECONDS
    # The first two warm the web workers, of which each keeps its own connection to the database.
    while len(seconds) < ROUNDS + 2 and (len(seconds) < 5 or time.monotonic() < end):
        began = time.monotonic()
        link.request("GET", read.path, headers=read.headers)
        answer = link.getresponse()
        text = answer.read()
        seconds.append(time.monotonic() - began)
        size = len(text)
        if answer.status != 200:
            table.add(read.name, math.inf, read.bound, f" {read.path}: {answer.status} {text[:200]!r}")
            return
    link.close()
    ordered = sorted(1000 * each for each in seconds[2:])
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    more = f"{statistics.median(ordered):8.1f}{p95:8.1f} ms {size / 1024:7.0f} KiB {_queries(read):4} queries"
    table.add(read.name, p95, read.bound, more)


def _queries(read: Read) -> int:
    """How many queries the same request does, in this process."""
    client = Client(headers=read.headers, SERVER_NAME="localhost")
    with CaptureQueriesContext(connection) as captured:
        client.get(read.path)
    return len(captured)


def _books(table: Table) -> None:
    began = time.monotonic()
    results = run_checks()
    seconds = time.monotonic() - began
    found = [violation.detail for result in results for violation in result.violations]
    if found:
        sys.exit(f"the cloned rows do not hold together, what was measured means nothing: {found[:5]}")
    slowest = max(results, key=lambda result: result.seconds)
    more = f"{seconds * 1000:8.0f} ms; the slowest {slowest.check.invariant} {slowest.seconds * 1000:.0f} ms"
    table.add("audit of all invariants", seconds * 1000, AUDIT_SECONDS * 1000, more)


def _turns(table: Table) -> None:
    turns: dict[str, Callable[[], Any]] = {
        "hosts.run": hosts.run,
        "instances.run": instances.run,
        "promises.run": promises.run,
        "operations.due_operations": operations.due_operations,
        "operations.waiting_calls": operations.waiting_calls,
    }
    now = timezone.now()
    Host.objects.update(last_seen_at=now, observed_at=now)
    with transaction.atomic(), connection.cursor() as cursor:
        # Only for the setting: what is measured runs under the product's own time-outs.
        cursor.execute("SET LOCAL statement_timeout = 0")
        Domain.objects.update(observed_at=now, since=now - timedelta(minutes=5))
    for _ in range(2):
        promises.run()
    for name, turn in turns.items():
        _turn(name, turn, table)
    # Two on which promises stand, so that their slots have to be set aside elsewhere.
    silent = list(SetAside.objects.filter(slots__gt=0).order_by("host_id").values_list("host_id", flat=True)[:2])
    Host.objects.filter(id__in=silent).update(observed_state="down", last_seen_at=now - timedelta(minutes=5))
    _turn("promises.run, two hosts lost", promises.run, table)
    _turn("instances.run, two hosts lost", instances.run, table)
    Host.objects.filter(id__in=silent).update(observed_state="up", last_seen_at=now)
    _turn("promises.run, they return", promises.run, table)


def _turn(name: str, turn: Callable[[], Any], table: Table) -> None:
    with CaptureQueriesContext(connection) as captured:
        began, cpu = time.monotonic(), time.process_time()
        done = turn()
        seconds, own = time.monotonic() - began, time.process_time() - cpu
    count = len(done) if isinstance(done, list) else done
    more = f"{seconds * 1000:8.0f} ms, own CPU {own * 1000:6.0f} ms, {len(captured):5} queries, {count} done"
    table.add(name, seconds * 1000, TURN_SECONDS * 1000, more)


def _beats(host_count: int, table: Table, rounds: int = 200) -> None:
    """Heartbeats of several hosts, each as its host sends it: its guests, and nothing that has changed."""
    reports = [(host, _report(host)) for host in Host.objects.order_by("id")[:rounds]]
    seconds = []
    cpu = time.process_time()
    for host, report in reports:
        began = time.monotonic()
        nodes.heartbeat(host=host, report=report)
        seconds.append(time.monotonic() - began)
    own = (time.process_time() - cpu) / len(reports)
    with CaptureQueriesContext(connection) as captured:
        nodes.heartbeat(host=reports[0][0], report=reports[0][1])
    guests = statistics.mean(len(report.domains or ()) for _, report in reports)
    p95 = sorted(seconds)[int(len(seconds) * 0.95)] * 1000
    every = settings.HEARTBEAT_SECONDS
    more = (
        f"{statistics.median(seconds) * 1000:8.1f}{p95:8.1f} ms, own CPU {own * 1000:.1f} ms, {len(captured)} queries, "
        f"{guests:.0f} guests; {host_count} hosts every {every} s: {host_count / every * own:.1f} cores of this process"
    )
    table.add("heartbeat", p95, BEAT_MS, more)


def _report(host: Host) -> HostReport:
    rows = Domain.objects.filter(host=host).values_list("instance_id", "instance__kind", "power", "token")
    names = ("uuid", "name", "instance_id", "kind", "power", "token")
    domains = [dict(zip(names, (str(guest), str(guest), str(guest), *told), strict=True)) for guest, *told in rows]
    return HostReport.from_json(
        {"boot_id": "boot-1", "clock": timezone.now().isoformat(), "domains": domains, "partitions": []}
    )
