"""A cloud of 10,000 hosts and 200,000 instances in a minute or two: what some benchmarks measure.

One instance of each size is made with the services and a fake host, and its rows are cloned: instance, port, allocation,
domain, operation, host calls, decision, audit event, usage segment; as many ended segments again as history. Sums are set
right afterwards, so the audit must find nothing.
"""

# ruff: noqa: E402  # models can be imported only once Django is set up
from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import django
from django.db import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloud.settings")
django.setup()

from django.utils import timezone

from compute.models import Domain, Host, Network, Pool, Price
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tenants.services.access import system_actor
from tests.factories.compute import make_flavor, make_host, make_image
from tests.factories.nodes import PlayedHost, play, run_to_end
from tests.factories.tenants import make_tenant

ROOTS, TEAMS, LEAVES = 50, 5, 2
ACTOR = system_actor("benchmark")
# name, kind, vCPU, MiB, GiB; how many of ten instances
SIZES = (("small", "vm", 1, 1024, 10, 5), ("medium", "vm", 2, 4096, 20, 3), ("cell", "container", 2, 2048, 5, 2))
SECONDS_APART = 40  # so that 200,000 instances were made over three months
_NEW = "'id', gen_random_uuid()"

# A clone is a row of a template with some columns replaced, whatever columns there are. MATERIALIZED: the table that
# grows is read once, not once for each clone; LATERAL: `(f(x)).*` would call the function once for each column.
_CLONE = """WITH p AS MATERIALIZED (SELECT * FROM {table} p WHERE {where})
            INSERT INTO {table} SELECT c.* FROM p JOIN {source}
            CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, to_jsonb(p) || jsonb_build_object({changed})) c"""


@dataclass(frozen=True, slots=True)
class LargeCloud:
    """What was made. `deep`: a leaf, three levels down."""

    pool: Pool
    roots: list[Tenant]
    deep: Tenant


def fill_cloud(*, hosts: int, instances: int) -> LargeCloud:
    """Fill an empty database. Instances lie on hosts and in the leaves of the tree in turn, their sizes as SIZES says."""
    pool = Pool.objects.create(name="main", vcpu_ratio=4.0, shared_storage_id="main")
    Network.objects.create(pool=pool, name="default", cidr="10.64.0.0/12", gateway="10.64.0.1", vni=5000)
    host = make_host(pool, vcpus=64, memory_mib=262_144, disk_gib=4096, name="bench-0", modes=("kvm", "lxc"))
    roots = [make_tenant(f"org-{number}") for number in range(ROOTS)]
    teams = [make_tenant(f"team-{number}", parent=root) for root in roots for number in range(TEAMS)]
    leaves = [make_tenant(f"project-{number}", parent=team) for team in teams for number in range(LEAVES)]
    _make_templates(host, leaves[0])
    _price(Decimal("0.01"))
    with connection.cursor() as cursor:
        # Only for the filling: what is measured runs under the product's own time-outs.
        cursor.execute("SET statement_timeout = 0")
        _clone_hosts(cursor, hosts)
        _draw_instances(cursor, instances - len(SIZES), hosts)
        _clone_instances(cursor)
        _set_sums(cursor)
        cursor.execute("DROP TABLE bench")
        cursor.execute("ANALYZE")
        cursor.execute("RESET statement_timeout")
    return LargeCloud(pool=pool, roots=roots, deep=leaves[0])


def _make_templates(host: Host, tenant: Tenant) -> None:
    with tempfile.TemporaryDirectory() as folder:
        node: PlayedHost = play(host, Path(folder))
        for name, kind, vcpus, memory_mib, disk_gib, _ in SIZES:
            flavor = make_flavor(name, vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib)
            image = make_image(f"image-{name}", kind=kind)
            made = create_instances(actor=ACTOR, tenant=tenant, name=name, flavor=flavor.name, image=image.name)
            assert run_to_end(made.operations[0].id, node).state == "succeeded"
        node.beat()


def _price(per_hour: Decimal) -> None:
    since = timezone.now().replace(microsecond=0) - timedelta(days=120)
    for resource in ("vcpu", "memory_gib", "disk_gib"):
        Price.objects.create(resource=resource, per_hour=per_hour, currency="EUR", valid_from=since, set_by="benchmark")


def _clone_hosts(cursor: Any, hosts: int) -> None:
    changed = """'id', gen_random_uuid(), 'name', 'bench-' || n, 'node_token_hash', 'bench-' || n,
                 'address', host(inet '10.200.0.0' + n)"""
    source = f"generate_series(1, {hosts - 1}) n ON true"
    cursor.execute(_CLONE.format(table=Host._meta.db_table, changed=changed, source=source, where="true"))


def _draw_instances(cursor: Any, instances: int, hosts: int) -> None:
    """The table `bench`: for each clone its template, ids, host, tenant and age."""
    turns = [number for number, size in enumerate(SIZES) for _ in range(size[-1])]
    cursor.execute(
        """CREATE TABLE bench AS
           SELECT gen_random_uuid() AS instance, gen_random_uuid() AS operation, gen_random_uuid() AS past,
                  gen_random_uuid() AS decision, i.id AS template, i.name AS size,
                  h.id AS host, t.id AS tenant, to_jsonb(t.path) AS path, n,
                  n * %(apart)s * interval '1 second' AS age
           FROM generate_series(1, %(instances)s) n
           JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS k FROM compute_host) h ON h.k = n %% %(hosts)s
           JOIN (SELECT id, path, row_number() OVER (ORDER BY id) - 1 AS k, count(*) OVER () AS leaves
                 FROM tenants_tenant WHERE cardinality(path) = 3) t ON t.k = n %% t.leaves
           JOIN (SELECT id, name FROM compute_instance) i
                ON i.name = (%(names)s::text[])[(%(turns)s::int[])[(n + n / %(hosts)s) %% 10 + 1] + 1]""",
        {
            "instances": instances,
            "hosts": hosts,
            "apart": SECONDS_APART,
            "names": [size[0] for size in SIZES],
            "turns": turns,
        },
    )


def _clone_instances(cursor: Any) -> None:
    """One clone of each row of a template for each row of `bench`: (table, column that names the template, changes, which)."""
    last_domain = Domain.objects.latest("id").id
    owner = "'tenant_id', b.tenant"
    name = "b.size || '-' || b.n"
    created = "'created_at', p.created_at - b.age"
    began = "'held_from', p.held_from - b.age, 'billed_from', p.billed_from - b.age"
    clones = [
        (
            "compute_instance",
            "id",
            f"'id', b.instance, {owner}, 'host_id', b.host, 'name', {name}, 'decision_id', b.decision, {created}",
            "true",
        ),
        (
            "compute_port",
            "instance_id",
            f"{_NEW}, {owner}, 'instance_id', b.instance, 'address', host(inet '10.64.16.0' + b.n::int), "
            "'mac', '52:54:' || substr(b.instance::text, 1, 2) || lpad(to_hex(b.n), 8, '0')",
            "true",
        ),
        (
            "compute_allocation",
            "consumer_id",
            f"{_NEW}, 'consumer_id', b.instance, 'host_id', b.host, {created}",
            "true",
        ),
        (
            "compute_domain",
            "instance_id",
            f"'id', {last_domain} + b.n, 'instance_id', b.instance, 'host_id', b.host",
            "true",
        ),
        (
            "compute_operation",
            "target_id",
            f"'id', b.operation, 'target_id', b.instance, 'target_name', {name}, {owner}, {created}",
            "true",
        ),
        (
            "compute_decision",
            "instance_id",
            f"'id', b.decision, 'instance_id', b.instance, 'host_id', b.host, {owner}, {created}",
            "true",
        ),
        (
            "tenants_auditevent",
            "target_id",
            f"{_NEW}, 'target_id', b.instance, 'target_name', {name}, 'operation_id', b.operation, {owner}",
            "p.action = 'instance.create'",
        ),
        (
            "tenants_usagesegment",
            "consumer_id",
            f"{_NEW}, 'consumer_id', b.instance, {owner}, 'payers', b.path, {began}",
            "true",
        ),
        (
            "tenants_usagesegment",
            "consumer_id",
            f"{_NEW}, 'consumer_id', b.past, {owner}, 'payers', b.path, 'held_from', p.held_from - interval '20 days', "
            "'billed_from', p.held_from - interval '20 days', 'ended_at', p.held_from - b.n % 20 * interval '1 day'",
            "true",
        ),
        (
            "compute_hostcall",
            "target_id",
            f"{_NEW}, 'target_id', b.instance, 'operation_id', b.operation, 'host_id', b.host",
            "p.operation_id IS NOT NULL",
        ),
    ]
    for table, key, changed, where in clones:
        source = f"bench b ON b.template = p.{key}"
        cursor.execute(_CLONE.format(table=table, changed=changed, source=source, where=where))


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
