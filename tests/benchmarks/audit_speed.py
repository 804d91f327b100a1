"""How long the audit takes at 10,000 hosts and 200,000 instances, check by check; and the usage reports beside it.

    python -m tests.benchmarks.audit_speed [--hosts 10000] [--instances 200000]

Makes one instance with the services and a fake host, in a database of its own, and clones its rows: instance, allocation,
domain, operation, host calls, audit event, usage segment; as many ended segments again as history. Sums are set right, so
every check must find nothing: a violation ends the benchmark. Printed: seconds of each check and of all, of the whole
cloud's usage reports, and of the ledger's three writers, one by one, in transactions of their own. The database is dropped.
"""

# ruff: noqa: E402  # models can be imported only once Django is set up
from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import django
from django.db import connection, transaction

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloud.settings")
django.setup()

from django.utils import timezone

from compute.models import Domain, Flavor, Host, HostCall, Pool, Price
from compute.selectors.invariants import run_checks
from compute.selectors.showback import read_showback
from compute.selectors.usage import Period, read_usage
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tenants.services import metering
from tenants.services.access import system_actor
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.nodes import play, run_to_end
from tests.factories.tenants import make_tenant

ROOTS, LEAVES = 50, 10
ACTOR = system_actor("benchmark")
_NEW = "'id', gen_random_uuid()"

# A clone is a row of the first instance with some columns replaced, whatever columns there are. MATERIALIZED: the table that
# grows is read once, not once for each clone; LATERAL: `(f(x)).*` would call the function once for each column.
_CLONE = """WITH p AS MATERIALIZED (SELECT * FROM {table} p WHERE {where})
            INSERT INTO {table} SELECT c.* FROM p CROSS JOIN {source}
            CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, to_jsonb(p) || jsonb_build_object({changed})) c"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--instances", type=int, default=200_000)
    options = parser.parse_args()
    kept = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = "benchmark_audit"
    connection.creation.create_test_db(verbosity=0, serialize=False)
    try:
        began = time.monotonic()
        _fill(options.hosts, options.instances)
        print(f"filled in {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
        _audit()
        _reports()
        _writers()
    finally:
        connection.creation.destroy_test_db(kept, verbosity=0)
    return 0


def _audit() -> None:
    began = time.monotonic()
    results = run_checks()
    whole = time.monotonic() - began
    for result in results:
        print(f"{result.seconds:8.2f} s  {result.check.invariant:4} {result.check.title}")
        for violation in result.violations[:3]:
            print(f"            {violation.detail}")
    print(f"{whole:8.2f} s  all of them")
    if any(result.violations for result in results):
        sys.exit("the cloned rows do not hold together: what was measured means nothing")


def _reports() -> None:
    period = Period.between(timezone.now().replace(microsecond=0) - timedelta(days=30), None)
    leaf = Tenant.objects.filter(parent__isnull=False).first()
    reports: dict[str, Callable[[], Any]] = {
        "usage of the cloud by tenant": lambda: read_usage(actor=ACTOR, tenant=None, period=period),
        "usage of the cloud by day": lambda: read_usage(actor=ACTOR, tenant=None, period=period, group_by="day"),
        "showback of the cloud": lambda: read_showback(actor=ACTOR, tenant=None, period=period),
        "usage of one leaf by instance": lambda: read_usage(
            actor=ACTOR, tenant=leaf, period=period, group_by="instance"
        ),
    }
    for name, read in reports.items():
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            read()
            seconds.append(time.monotonic() - began)
        print(f"{seconds[0]:8.2f} s  {name}; the best of two more {min(seconds[1:]):.2f} s")


def _writers(rounds: int = 1000) -> None:
    tenant = Tenant.objects.filter(parent__isnull=False).first()
    flavor, pool = Flavor.objects.get(), Pool.objects.get()
    assert tenant is not None
    usage = metering.Usage(
        consumer_type="instance",
        kind="vm",
        flavor_id=flavor.id,
        flavor_name=flavor.name,
        pool_id=pool.id,
        pool_name=pool.name,
        vcpus=1,
        memory_mib=256,
        disk_gib=1,
    )
    ids = [uuid.uuid4() for _ in range(rounds)]
    acts: dict[str, Callable[[uuid.UUID], Any]] = {
        "hold": lambda consumer: metering.hold(tenant=tenant, usage=usage, consumers=[(consumer, "web")]),
        "commit": lambda consumer: metering.commit(consumer_id=consumer),
        "release": lambda consumer: metering.release(consumer_id=consumer),
    }
    for name, act in acts.items():
        began, cpu = time.monotonic(), time.process_time()
        for consumer in ids:
            with transaction.atomic():
                act(consumer)
        each, own = (time.monotonic() - began) / rounds, (time.process_time() - cpu) / rounds
        print(f"{each * 1000:8.2f} ms {name}, of it {own * 1000:.2f} ms CPU of this process")


def _fill(hosts: int, instances: int) -> None:
    pool, image, flavor = make_pool(cidr="10.64.0.0/20"), make_image("tiny"), make_flavor("small")
    first = make_host(pool, vcpus=256, memory_mib=262_144, disk_gib=4096, name="bench-0")
    leaves = [make_tenant(parent=root) for root in [make_tenant() for _ in range(ROOTS)] for _ in range(LEAVES)]
    with tempfile.TemporaryDirectory() as folder:
        made = create_instances(actor=ACTOR, tenant=leaves[0], name="web", flavor=flavor.name, image=image.name)
        node = play(first, Path(folder))
        assert run_to_end(made.operations[0].id, node).state == "succeeded"
        node.beat()
    _price(Decimal("0.01"))
    with connection.cursor() as cursor:
        # Only for the filling: what is measured runs under the product's own time-outs.
        cursor.execute("SET statement_timeout = 0")
        _clone_hosts(cursor, first, hosts)
        cursor.execute(
            """CREATE TABLE bench AS
               SELECT gen_random_uuid() AS instance, gen_random_uuid() AS operation, gen_random_uuid() AS past,
                      h.id AS host, t.id AS tenant, to_jsonb(t.path) AS path, n
               FROM generate_series(1, %s) n
               JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS k FROM compute_host) h ON h.k = n %% %s
               JOIN (SELECT id, path, row_number() OVER (ORDER BY id) - 1 AS k FROM tenants_tenant WHERE parent_id IS NOT NULL) t
                    ON t.k = n %% %s""",
            [instances - 1, hosts, len(leaves)],
        )
        _clone_instances(cursor)
        _set_sums(cursor)
        cursor.execute("ANALYZE")
        cursor.execute("RESET statement_timeout")


def _price(per_hour: Decimal) -> None:
    since = timezone.now().replace(microsecond=0) - timedelta(days=60)
    for resource in ("vcpu", "memory_gib", "disk_gib"):
        Price.objects.create(resource=resource, per_hour=per_hour, currency="EUR", valid_from=since, set_by="benchmark")


def _clone_hosts(cursor: Any, first: Host, hosts: int) -> None:
    changed = """'id', gen_random_uuid(), 'name', 'bench-' || n, 'node_token_hash', 'bench-' || n,
                 'address', host(inet '10.200.0.0' + n)"""
    source = f"generate_series(1, {hosts - 1}) n"
    cursor.execute(_CLONE.format(table=Host._meta.db_table, changed=changed, source=source, where="true"))


def _clone_instances(cursor: Any) -> None:
    """One clone of each row of the first instance for each row of `bench`."""
    last_domain = Domain.objects.latest("id").id
    owner = "'tenant_id', b.tenant"
    calls = (
        "compute_hostcall",
        f"'target_id', b.instance, 'operation_id', b.operation, 'host_id', b.host, {_NEW}",
        "p.id = '{}'",
    )
    clones = [
        ("compute_instance", f"'id', b.instance, {owner}, 'host_id', b.host, 'name', 'web-' || b.n", "true"),
        ("compute_allocation", f"{_NEW}, 'consumer_id', b.instance, 'host_id', b.host", "true"),
        ("compute_domain", f"'id', {last_domain} + b.n, 'instance_id', b.instance, 'host_id', b.host", "true"),
        ("compute_operation", f"'id', b.operation, 'target_id', b.instance, {owner}", "true"),
        (
            "tenants_auditevent",
            f"{_NEW}, 'target_id', b.instance, 'operation_id', b.operation, {owner}",
            "p.action = 'instance.create'",
        ),
        ("tenants_usagesegment", f"{_NEW}, 'consumer_id', b.instance, {owner}, 'payers', b.path", "true"),
        (
            "tenants_usagesegment",
            f"{_NEW}, 'consumer_id', b.past, {owner}, 'payers', b.path, 'held_from', p.held_from - interval '20 days', "
            "'billed_from', p.held_from - interval '20 days', 'ended_at', p.held_from - b.n % 20 * interval '1 day'",
            "NOT EXISTS (SELECT FROM bench i WHERE i.instance = p.consumer_id)",
        ),
    ]
    ids = HostCall.objects.filter(operation__isnull=False).values_list("id", flat=True)
    clones += [(calls[0], calls[1], calls[2].format(call)) for call in ids]
    for table, changed, where in clones:
        cursor.execute(_CLONE.format(table=table, changed=changed, source="bench b", where=where))


def _set_sums(cursor: Any) -> None:
    """What the services would have added up one by one."""
    cursor.execute(
        """UPDATE compute_host h SET used_vcpus = a.v, used_memory_mib = a.m, used_disk_gib = a.d, used_instances = a.n
           FROM (SELECT host_id, sum(vcpus) v, sum(memory_mib) m, sum(disk_gib) d, count(*) n FROM compute_allocation
                 GROUP BY host_id) a WHERE a.host_id = h.id"""
    )
    cursor.execute(
        """UPDATE tenants_quota q SET used = u.n FROM (
               SELECT payer, r.resource, sum(r.n) AS n
               FROM tenants_usagesegment s, unnest(s.payers) payer,
                    LATERAL (VALUES ('instances', 1), ('vcpus', s.vcpus), ('memory_mib', s.memory_mib),
                                    ('disk_gib', s.disk_gib)) r(resource, n)
               WHERE s.ended_at IS NULL GROUP BY payer, r.resource) u
           WHERE u.payer = q.tenant_id AND u.resource = q.resource"""
    )


if __name__ == "__main__":
    sys.exit(main())
