"""The invariants of the ledger and the engine, as SQL, in one place: `manage.py audit`, the tests and the console use these.

Each check returns one row per violation. All run in one REPEATABLE READ transaction: a charge between two reads cannot
look like a fault. Ids as in docs/reliability.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from django.db import connection, transaction

from tenants import selectors as tenants


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be. `detail` names the rows."""

    invariant: str
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: what must hold, and the SQL that finds where it does not (one text column)."""

    invariant: str
    title: str
    sql: str


# How long after a fault things may take to settle, in seconds, before limbo is a violation (T in the fault tables).
SETTLE_SECONDS = 60
# I2 and I6 pass over what an operation has just ended: a listing (of directories: up to half a minute old) may be older.

# The tree is walked in Python: what the apps below count has no table here.
QUOTA_SUMS = Check("I3", "what each tenant is charged is the sum of what it and the tenants below it hold", sql="")

CHECKS: tuple[Check, ...] = (
    Check(
        "I1",
        "each instance runs on at most one host, and on the one the books say",
        """
        SELECT format('instance %%s runs on %%s hosts: %%s', d.instance_id, count(*), string_agg(h.name, ', '))
        FROM compute_domain d JOIN compute_host h ON h.id = d.host_id
        WHERE d.power IN ('running', 'paused') AND d.misses = 0 GROUP BY d.instance_id HAVING count(*) > 1
        UNION ALL
        SELECT format('instance %%s runs on %%s, its row says %%s', d.instance_id, h.name, coalesce(i.host_id::text, 'none'))
        FROM compute_domain d JOIN compute_host h ON h.id = d.host_id JOIN compute_instance i ON i.id = d.instance_id
        WHERE d.power IN ('running', 'paused') AND d.misses = 0 AND i.host_id IS DISTINCT FROM d.host_id
        """,
    ),
    Check(
        "I2",
        "no domain with our mark is without its instance, and no running wish without its domain",
        """
        SELECT format('host %%s: domain of instance %%s does not belong there', h.name, s->>'instance_id')
        FROM compute_host h, jsonb_array_elements(h.strays) s
        WHERE h.admin_state <> 'removed' AND h.observed_state = 'up'
          AND s->>'instance_id' NOT IN (SELECT target_id::text FROM compute_operation WHERE finished_at > now() - %(settle)s::interval
                                        UNION ALL SELECT instance_id::text FROM compute_migration WHERE state = 'running')
        UNION ALL
        SELECT format('instance %%s should run and its host has no domain of it', i.id)
        FROM compute_instance i JOIN compute_host h ON h.id = i.host_id
        LEFT JOIN compute_domain d ON d.instance_id = i.id AND d.host_id = i.host_id
        WHERE i.state = 'active' AND i.desired_power = 'running' AND h.observed_state = 'up'
          AND (d.id IS NULL OR d.power = 'absent') AND i.created_at < now() - %(settle)s::interval
          AND NOT EXISTS (SELECT FROM compute_operation o WHERE o.target_id = i.id
                          AND (o.state IN ('pending', 'running', 'unwinding') OR o.finished_at > now() - %(settle)s::interval))
        """,
    ),
    Check(
        "I3",
        "what is used on each host is the sum of its allocations",
        """
        SELECT format('host %%s: books say %%s vCPU %%s MiB %%s GiB %%s instances, allocations sum to %%s / %%s / %%s / %%s', h.name,
                      h.used_vcpus, h.used_memory_mib, h.used_disk_gib, h.used_instances,
                      coalesce(a.v, 0), coalesce(a.m, 0), coalesce(a.d, 0), coalesce(a.n, 0))
        FROM compute_host h LEFT JOIN (
            SELECT host_id, sum(vcpus - dedicated_vcpus) v, sum(memory_mib - dedicated_memory_mib) m, sum(disk_gib) d, count(*) n
            FROM compute_allocation GROUP BY host_id
        ) a ON a.host_id = h.id
        WHERE (h.used_vcpus, h.used_memory_mib, h.used_disk_gib, h.used_instances)
              IS DISTINCT FROM (coalesce(a.v, 0)::int, coalesce(a.m, 0)::int, coalesce(a.d, 0)::int, coalesce(a.n, 0)::int)
        """,
    ),
    Check(
        "I3",
        "each allocation has its consumer, of the same size and on the same host; each live instance has its allocation",
        """
        SELECT format('allocation %%s: its instance %%s is %%s', a.id, a.consumer_id, coalesce(i.state, 'unknown'))
        FROM compute_allocation a LEFT JOIN compute_instance i ON i.id = a.consumer_id
        WHERE a.consumer_type = 'instance'
          AND (i.id IS NULL OR i.state IN ('failed', 'deleted') OR i.host_id IS DISTINCT FROM a.host_id
               OR (i.vcpus, i.memory_mib, i.disk_gib) IS DISTINCT FROM (a.vcpus, a.memory_mib, a.disk_gib))
        UNION ALL
        SELECT format('allocation %%s: its migration %%s is %%s', a.id, a.consumer_id, coalesce(m.state, 'unknown'))
        FROM compute_allocation a LEFT JOIN compute_migration m ON m.id = a.consumer_id LEFT JOIN compute_instance i ON i.id = m.instance_id
        WHERE a.consumer_type = 'migration'
          AND (m.id IS NULL OR m.state NOT IN ('claimed', 'preparing', 'running') OR m.destination_id <> a.host_id
               OR (i.vcpus, i.memory_mib, i.disk_gib) IS DISTINCT FROM (a.vcpus, a.memory_mib, a.disk_gib))
        UNION ALL
        SELECT format('instance %%s is %%s and holds no allocation', i.id, i.state) FROM compute_instance i
        WHERE i.state IN ('building', 'active', 'error')
          AND NOT EXISTS (SELECT FROM compute_allocation a WHERE a.consumer_type = 'instance' AND a.consumer_id = i.id)
        """,
    ),
    Check(
        "I3",
        "what guests have of each NUMA cell is what the host's row says, CPU by CPU",
        """
        WITH share AS (
            SELECT a.host_id, a.id, s.cell, s.vcpus, s.memory_mib, s.page_kib, s.cpus
            FROM compute_allocation a, jsonb_to_recordset(a.cells) AS s(cell int, vcpus int, memory_mib int, page_kib int, cpus jsonb)
            WHERE a.cells IS NOT NULL
        ), held AS (
            SELECT host_id, cell, coalesce(sum(memory_mib) FILTER (WHERE page_kib = 0), 0) AS memory_mib,
                   sum(jsonb_array_length(cpus)) AS cpus
            FROM share GROUP BY host_id, cell
        ), told AS (
            SELECT h.id AS host_id, u.cell, u.memory_mib, jsonb_array_length(u.cpus) AS cpus
            FROM compute_host h, jsonb_to_recordset(h.numa_used) AS u(cell int, memory_mib int, cpus jsonb)
        )
        SELECT format('host %%s cell %%s: books say %%s CPUs %%s MiB, allocations sum to %%s / %%s', host_id, cell,
                      told.cpus, told.memory_mib, held.cpus, held.memory_mib)
        FROM held FULL JOIN told USING (host_id, cell)
        WHERE (held.cpus, held.memory_mib) IS DISTINCT FROM (told.cpus, told.memory_mib)
        UNION ALL
        SELECT format('host %%s cell %%s: %%s pages of %%s KiB in use, books say %%s', s.host_id, s.cell, s.pages, s.page_kib, u.told)
        FROM (SELECT host_id, cell, page_kib, sum(memory_mib::bigint * 1024 / page_kib) AS pages
              FROM share WHERE page_kib > 0 GROUP BY host_id, cell, page_kib) s
        LEFT JOIN LATERAL (
            SELECT (u.pages->>s.page_kib::text)::bigint AS told
            FROM compute_host h, jsonb_to_recordset(h.numa_used) AS u(cell int, pages jsonb) WHERE h.id = s.host_id AND u.cell = s.cell
        ) u ON true
        WHERE u.told IS DISTINCT FROM s.pages
        UNION ALL
        SELECT format('allocation %%s: its cells name the CPUs %%s, pinned are %%s', a.id, n.named, p.pinned)
        FROM compute_allocation a,
        LATERAL (SELECT coalesce(array_agg(c.cpu::int ORDER BY c.cpu::int), '{}') AS named
                 FROM share s, jsonb_array_elements_text(s.cpus) AS c(cpu) WHERE s.id = a.id) n,
        LATERAL (SELECT coalesce(array_agg(p.cpu ORDER BY p.cpu), '{}') AS pinned FROM compute_pinnedcpu p
                 WHERE p.allocation_id = a.id AND p.host_id = a.host_id) p
        WHERE (a.cells IS NOT NULL OR p.pinned <> '{}') AND (n.named <> p.pinned OR cardinality(n.named) <> a.dedicated_vcpus)
        UNION ALL
        SELECT format('allocation %%s: %%s MiB in huge pages, its row says %%s', a.id, coalesce(s.n, 0), a.dedicated_memory_mib)
        FROM compute_allocation a LEFT JOIN (
            SELECT id, sum(memory_mib) AS n FROM share WHERE page_kib > 0 GROUP BY id
        ) s ON s.id = a.id
        WHERE a.dedicated_memory_mib <> coalesce(s.n, 0)
        """,
    ),
    QUOTA_SUMS,
    Check(
        "I3",
        "room held for promises is what is set aside less what fills it; slots in use are those of the guests",
        """
        SELECT format('host %%s: holds %%s vCPU %%s MiB %%s GiB, its slots less their use come to %%s / %%s / %%s', h.name,
                      h.held_vcpus, h.held_memory_mib, h.held_disk_gib, s.v - u.v, s.m - u.m, s.d - u.d)
        FROM compute_host h,
        LATERAL (SELECT coalesce(sum(slots * unit_vcpus), 0) v, coalesce(sum(slots * unit_memory_mib), 0) m,
                        coalesce(sum(slots * unit_disk_gib), 0) d FROM compute_setaside WHERE host_id = h.id) s,
        LATERAL (SELECT coalesce(sum(vcpus), 0) v, coalesce(sum(memory_mib), 0) m, coalesce(sum(disk_gib), 0) d
                 FROM compute_grantuse WHERE host_id = h.id) u
        WHERE (h.held_vcpus, h.held_memory_mib, h.held_disk_gib) IS DISTINCT FROM (s.v - u.v, s.m - u.m, s.d - u.d)
        UNION ALL
        SELECT format('host %%s: %%s slots of %%s/%%s/%%s are filled, its grants fill %%s', h.name, s.filled,
                      s.unit_vcpus, s.unit_memory_mib, s.unit_disk_gib, u.slots)
        FROM compute_setaside s JOIN compute_host h ON h.id = s.host_id,
        LATERAL (SELECT coalesce(sum(u.slots), 0) slots FROM compute_grantuse u JOIN compute_grant g ON g.id = u.grant_id
                 WHERE u.host_id = s.host_id AND (g.unit_kind, g.unit_vcpus, g.unit_memory_mib, g.unit_disk_gib)
                       = (s.unit_kind, s.unit_vcpus, s.unit_memory_mib, s.unit_disk_gib)) u
        WHERE s.filled <> u.slots
        UNION ALL
        SELECT format('grant %%s on host %%s: %%s slots for %%s / %%s / %%s, allocations come to %%s / %%s / %%s', u.grant_id,
                      u.host_id, u.slots, u.vcpus, u.memory_mib, u.disk_gib, a.v, a.m, a.d)
        FROM compute_grantuse u JOIN compute_grant g ON g.id = u.grant_id,
        LATERAL (SELECT coalesce(sum(vcpus), 0) v, coalesce(sum(memory_mib), 0) m, coalesce(sum(disk_gib), 0) d
                 FROM compute_allocation WHERE grant_id = u.grant_id AND host_id = u.host_id) a
        WHERE (u.vcpus, u.memory_mib, u.disk_gib) IS DISTINCT FROM (a.v, a.m, a.d)
           OR u.slots <> greatest(ceil(a.v::numeric / g.unit_vcpus), ceil(a.m::numeric / g.unit_memory_mib),
                                  ceil(a.d::numeric / g.unit_disk_gib))
        UNION ALL
        SELECT format('allocation %%s fills grant %%s on a host that knows nothing of it', a.id, a.grant_id)
        FROM compute_allocation a LEFT JOIN compute_grantuse u ON u.grant_id = a.grant_id AND u.host_id = a.host_id
        WHERE a.grant_id IS NOT NULL AND u.id IS NULL
        """,
    ),
    Check(
        "I4",
        "no grant promises or draws more than it has, no limit of a grant is passed, each is the sum of what it counts",
        """
        SELECT format('grant %%s: %%s units are drawn, its guests and the grants below come to %%s', g.id, g.used_units, n.own + n.below)
        FROM compute_grant g,
        LATERAL (SELECT (SELECT coalesce(sum(slots), 0) FROM compute_grantuse WHERE grant_id = g.id) own,
                        (SELECT coalesce(sum(greatest(units, used_units)), 0) FROM compute_grant WHERE parent_id = g.id) below) n
        WHERE g.used_units <> n.own + n.below
        UNION ALL
        SELECT format('grant %%s: %%s units, %%s in use', id, units, used_units) FROM compute_grant
        WHERE used_units > units AND NOT expandable
        UNION ALL
        SELECT format('grant %%s: %%s %%s used, %%s allowed, %%s held in its subtree', l.grant_id, l.used, l.resource, l.ceiling, a.n)
        FROM compute_grantlimit l JOIN compute_grant g ON g.id = l.grant_id,
        LATERAL (SELECT coalesce(sum(CASE l.resource WHEN 'vcpus' THEN a.vcpus WHEN 'memory_mib' THEN a.memory_mib
                                     ELSE a.disk_gib END), 0) n
                 FROM compute_allocation a JOIN compute_instance i ON a.consumer_type = 'instance' AND i.id = a.consumer_id
                 JOIN tenants_tenant t ON t.id = i.tenant_id
                 WHERE i.pool_id = g.pool_id AND t.path @> ARRAY[g.tenant_id]) a
        WHERE l.used > l.ceiling OR l.used <> a.n
        """,
    ),
    Check(
        "I4",
        "what is promised can be kept through the losses that the pool's policy names, or an alarm says that it cannot",
        """
        SELECT format('pool %%s: %%s units of %%s/%%s/%%s are promised, %%s would be left; no alarm is raised', p.name, promised.units,
                      promised.unit_vcpus, promised.unit_memory_mib, promised.unit_disk_gib, kept.slots)
        FROM (SELECT pool_id, unit_kind, unit_vcpus, unit_memory_mib, unit_disk_gib, sum(units) units FROM compute_grant
              WHERE parent_id IS NULL GROUP BY 1, 2, 3, 4, 5) promised
        JOIN compute_pool p ON p.id = promised.pool_id,
        LATERAL (SELECT coalesce(sum(slots) FILTER (WHERE place > p.host_losses), 0) slots FROM (
            SELECT s.slots, row_number() OVER (ORDER BY s.slots DESC) place
            FROM compute_setaside s JOIN compute_host h ON h.id = s.host_id
            WHERE h.pool_id = p.id AND h.admin_state = 'enabled' AND h.observed_state IN ('up', 'suspect')
              AND (s.unit_kind, s.unit_vcpus, s.unit_memory_mib, s.unit_disk_gib)
                  = (promised.unit_kind, promised.unit_vcpus, promised.unit_memory_mib, promised.unit_disk_gib)) ranked) kept
        WHERE promised.units > kept.slots
          AND NOT EXISTS (SELECT FROM compute_alarm a WHERE a.pool_id = p.id AND a.cleared_at IS NULL
                          AND a.kind IN ('promise_at_risk', 'promise_broken')
                          AND a.subject = concat_ws('/', promised.unit_vcpus, promised.unit_memory_mib, promised.unit_disk_gib,
                                                    coalesce(nullif(promised.unit_kind, ''), 'either')))
        """,
    ),
    Check(
        "I4",
        "no host carries more than it may, no quota is passed",
        """
        SELECT format('host %%s: use is above its ceiling', name) FROM compute_host
        WHERE used_vcpus > ceiling_vcpus OR used_memory_mib > ceiling_memory_mib OR used_disk_gib > ceiling_disk_gib
        UNION ALL
        SELECT format('tenant %%s: %%s %%s used, %%s allowed', tenant_id, used, resource, ceiling) FROM tenants_quota
        WHERE ceiling IS NOT NULL AND used > ceiling
        """,
    ),
    Check(
        "I5",
        "no operation or instance is in limbo",
        """
        SELECT format('operation %%s (%%s) is stuck', id, kind) FROM compute_operation WHERE state = 'stuck'
        UNION ALL
        SELECT format('operation %%s (%%s) is %%s and has not moved since %%s', o.id, o.kind, o.state, o.next_attempt_at)
        FROM compute_operation o WHERE o.state IN ('pending', 'running', 'unwinding') AND o.next_attempt_at < now() - %(settle)s::interval
        UNION ALL
        SELECT format('instance %%s is %%s without an operation', i.id, i.state) FROM compute_instance i
        WHERE i.state IN ('building', 'deleting') AND i.created_at < now() - %(settle)s::interval
          AND NOT EXISTS (SELECT FROM compute_operation o WHERE o.target_id = i.id
                          AND (o.state IN ('pending', 'running', 'unwinding', 'stuck') OR o.finished_at > now() - %(settle)s::interval))
        UNION ALL
        SELECT format('call %%s (%%s) of a finished operation is still open', c.id, c.method)
        FROM compute_hostcall c JOIN compute_operation o ON o.id = c.operation_id
        WHERE c.state IN ('waiting', 'taken') AND o.state IN ('succeeded', 'failed', 'cancelled')
        """,
    ),
    Check(
        "I5",
        "each tenant that is being deleted has its operation, and nothing lives in one that is gone",
        """
        SELECT format('tenant %%s is deleting without an operation', t.id) FROM tenants_tenant t
        WHERE t.state = 'deleting'
          AND NOT EXISTS (SELECT FROM compute_operation o WHERE o.target_id = t.id AND o.kind = 'tenant_delete'
                          AND o.state IN ('pending', 'running', 'unwinding', 'stuck'))
        UNION ALL
        SELECT format('tenant %%s is %%s while operation %%s deletes it', t.id, t.state, o.id)
        FROM compute_operation o JOIN tenants_tenant t ON t.id = o.target_id
        WHERE o.kind = 'tenant_delete' AND o.state IN ('pending', 'running', 'unwinding', 'stuck') AND t.state IN ('active', 'disabled')
        UNION ALL
        SELECT format('instance %%s is %%s in tenant %%s, which is deleted', i.id, i.state, t.id)
        FROM tenants_tenant t JOIN compute_instance i ON i.tenant_id = t.id
        WHERE t.state = 'deleted' AND i.state NOT IN ('failed', 'deleted')
        UNION ALL
        SELECT format('tenant %%s is %%s below tenant %%s, which is deleted', c.id, c.state, t.id)
        FROM tenants_tenant t JOIN tenants_tenant c ON c.parent_id = t.id
        WHERE t.state = 'deleted' AND c.state <> 'deleted'
        """,
    ),
    Check(
        "I5",
        "what a lease has ended is stopped or deleted, or at work on it",
        """
        SELECT format('instance %%s is %%s: its lease ended at %%s and was to %%s it', i.id, i.state, i.lease_ends_at, i.lease_action)
        FROM compute_instance i
        WHERE (i.lease_action = 'delete' AND i.state IN ('building', 'active', 'error', 'failed')
               OR i.lease_action = 'stop' AND i.desired_power = 'running' AND i.state IN ('active', 'error'))
          AND i.lease_ends_at < now() - %(settle)s::interval
          AND NOT EXISTS (SELECT FROM compute_operation o WHERE o.target_id = i.id
                          AND (o.state IN ('pending', 'running', 'unwinding', 'stuck') OR o.finished_at > now() - %(settle)s::interval))
        """,
    ),
    Check(
        "I6",
        "no directory in storage is without its instance",
        """
        SELECT DISTINCT format('storage: directory of %%s, which no live instance owns', disk)
        FROM compute_host h, jsonb_array_elements_text(h.stray_disks) disk
        WHERE h.admin_state <> 'removed' AND h.observed_state = 'up'
          AND disk NOT IN (SELECT target_id::text FROM compute_operation WHERE finished_at > now() - %(settle)s::interval)
        """,
    ),
    Check(
        "I8",
        "each order had its own fencing token, and each step took effect once",
        """
        SELECT format('target %%s: two calls carry token %%s', target_id, token) FROM compute_hostcall
        WHERE purpose <> 'read' GROUP BY target_id, token HAVING count(*) > 1
        UNION ALL
        SELECT format('operation %%s: step %%s was answered done %%s times', operation_id, step, count(*)) FROM compute_hostcall
        WHERE operation_id IS NOT NULL AND purpose IN ('step', 'undo') AND state = 'answered' AND settled
          AND answer->>'outcome' = 'done'
        GROUP BY operation_id, step, purpose HAVING count(*) > 1
        """,
    ),
    Check(
        "I9",
        "each operation that ended has an end, and each that failed a reason",
        """
        SELECT format('operation %%s is %%s without an end', id, state) FROM compute_operation
        WHERE state IN ('succeeded', 'failed', 'cancelled') AND finished_at IS NULL
        UNION ALL
        SELECT format('operation %%s failed without a reason', id) FROM compute_operation
        WHERE state = 'failed' AND (error IS NULL OR error->>'code' IS NULL)
        """,
    ),
    Check(
        "I10",
        "each instance's create and delete stands in the audit trail, with its operation",
        """
        SELECT format('instance %%s: no audit event of its creation', i.id) FROM compute_instance i
        WHERE NOT EXISTS (SELECT FROM tenants_auditevent e WHERE e.target_id = i.id AND e.action = 'instance.create'
                          AND e.operation_id IS NOT NULL AND e.actor_name <> '')
        UNION ALL
        SELECT format('operation %%s (%%s): no audit event tells who ordered it', o.id, o.kind) FROM compute_operation o
        WHERE o.target_type = 'instance' AND NOT EXISTS (SELECT FROM tenants_auditevent e WHERE e.operation_id = o.id)
        """,
    ),
    Check(
        "I13",
        "each allocation has one open usage segment of its size and payers, and none is open without its allocation",
        """
        SELECT format('instance %%s: its allocation has no open usage segment', a.consumer_id) FROM compute_allocation a
        LEFT JOIN tenants_usagesegment s ON s.consumer_id = a.consumer_id AND s.ended_at IS NULL
        WHERE a.consumer_type = 'instance' AND s.id IS NULL
        UNION ALL
        SELECT format('%%s %%s: usage is open without an allocation', s.consumer_type, s.consumer_id) FROM tenants_usagesegment s
        LEFT JOIN compute_allocation a ON a.consumer_id = s.consumer_id AND a.consumer_type = 'instance'
        WHERE s.ended_at IS NULL AND a.id IS NULL
        UNION ALL
        SELECT format('instance %%s: usage says tenant %%s, %%s vCPU %%s MiB %%s GiB, its row and tenant say %%s, %%s / %%s / %%s',
                      i.id, s.payers, s.vcpus, s.memory_mib, s.disk_gib, t.path, i.vcpus, i.memory_mib, i.disk_gib)
        FROM tenants_usagesegment s JOIN compute_instance i ON i.id = s.consumer_id JOIN tenants_tenant t ON t.id = i.tenant_id
        WHERE s.ended_at IS NULL
          AND (s.tenant_id, s.payers, s.flavor_id, s.pool_id, s.vcpus, s.memory_mib, s.disk_gib)
              IS DISTINCT FROM (i.tenant_id, t.path, i.flavor_id, i.pool_id, i.vcpus, i.memory_mib, i.disk_gib)
        """,
    ),
    Check(
        "I13",
        "what came up is billed, and what never came up is not",
        """
        SELECT format('instance %%s is active and not billed', i.id)
        FROM compute_instance i JOIN tenants_usagesegment s ON s.consumer_id = i.id
        WHERE i.state = 'active' AND s.ended_at IS NULL AND s.billed_from IS NULL
        UNION ALL
        SELECT format('instance %%s is %%s and billed since %%s', i.id, i.state, s.billed_from)
        FROM compute_instance i JOIN tenants_usagesegment s ON s.consumer_id = i.id
        WHERE i.state IN ('building', 'failed') AND s.billed_from IS NOT NULL
        """,
    ),
    Check(
        "I13",
        "between the segments of one instance there is no gap",
        """
        SELECT format('%%s %%s: usage ended at %%s and went on at %%s', consumer_type, consumer_id, before_ended, held_from) FROM (
            SELECT consumer_type, consumer_id, held_from, billed_from,
                   lag(ended_at) OVER w AS before_ended, lag(billed_from) OVER w AS before_billed
            -- Several within one second have no length and one time; what is billed came after what was not.
            FROM tenants_usagesegment
            WINDOW w AS (PARTITION BY consumer_id ORDER BY held_from, ended_at, billed_from NULLS FIRST)
        ) s
        WHERE before_ended <> held_from OR (before_billed IS NOT NULL AND billed_from IS DISTINCT FROM held_from)
        """,
    ),
    Check(
        "I13",
        "what a tenant is charged against its quota is the sum of the open usage below it",
        """
        SELECT format('tenant %%s: quota says %%s %%s, open usage sums to %%s', q.tenant_id, q.used, q.resource, coalesce(u.n, 0))
        FROM tenants_quota q LEFT JOIN (
            SELECT payer, r.resource, sum(r.n) AS n
            FROM (SELECT payers, count(*) AS instances, sum(vcpus) AS vcpus, sum(memory_mib) AS memory_mib, sum(disk_gib) AS disk_gib
                  FROM tenants_usagesegment WHERE ended_at IS NULL AND consumer_type = 'instance' GROUP BY payers) s,
                 unnest(s.payers) payer,
                 LATERAL (VALUES ('instances', s.instances), ('vcpus', s.vcpus), ('memory_mib', s.memory_mib), ('disk_gib', s.disk_gib))
                     AS r(resource, n)
            GROUP BY payer, r.resource
        ) u ON u.payer = q.tenant_id AND u.resource = q.resource
        WHERE q.resource IN ('instances', 'vcpus', 'memory_mib', 'disk_gib') AND q.used <> coalesce(u.n, 0)
        """,
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found, and how long it took."""

    check: Check
    violations: tuple[Violation, ...]
    seconds: float


def run_checks() -> list[Result]:
    """Run every check on one snapshot of the database and return what each found, in order."""
    results: list[Result] = []
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL statement_timeout = '60s'")
            # What is in a JSON column cannot be estimated: compiling for it took 0.3 s where there was hardly a row.
            cursor.execute("SET LOCAL jit = off")
        for check in CHECKS:
            began = time.monotonic()
            details = _quota_faults() if check is QUOTA_SUMS else _ask(check.sql)
            violations = tuple(Violation(check.invariant, detail) for detail in details)
            results.append(Result(check, violations, time.monotonic() - began))
    return results


def check_all() -> list[Violation]:
    """Return everything that is wrong; empty when all invariants hold."""
    return [violation for result in run_checks() for violation in result.violations]


def _ask(sql: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(sql, {"settle": f"{SETTLE_SECONDS} seconds"})
        return [row[0] for row in cursor.fetchall()]


def _quota_faults() -> list[str]:
    return [
        f"tenant {fault.tenant_name}: quota row says {fault.used} {fault.resource}, {fault.expected} are held"
        for fault in tenants.ledger_faults(_held())
    ]


def _held() -> dict[tuple[UUID, str], int]:
    """Return what each tenant holds itself of compute's resources: (tenant id, resource) -> amount."""
    held: dict[tuple[UUID, str], int] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT i.tenant_id, count(*), sum(a.vcpus), sum(a.memory_mib), sum(a.disk_gib)
               FROM compute_allocation a JOIN compute_instance i ON i.id = a.consumer_id
               WHERE a.consumer_type = 'instance' GROUP BY i.tenant_id"""
        )
        for tenant_id, *amounts in cursor.fetchall():
            for resource, amount in zip(("instances", "vcpus", "memory_mib", "disk_gib"), amounts, strict=True):
                held[tenant_id, resource] = int(amount)
        cursor.execute("SELECT tenant_id, count(*) FROM compute_keypair GROUP BY tenant_id")
        for tenant_id, count in cursor.fetchall():
            held[tenant_id, "keypairs"] = count
    return held
