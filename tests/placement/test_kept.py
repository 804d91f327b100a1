"""The kept hosts are those of the database at every look, whatever commits in whatever order."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection, transaction
from django.db.models import F

from compute.models import Host, Pool
from compute.placement import kept
from compute.placement.cells import free_cells
from compute.placement.kept import KeptHosts
from compute.placement.loader import HOST_COLUMNS, host_inventory, host_used
from compute.scheduler.model import HostState
from compute.scheduler.snapshot import Snapshot
from tests.factories.compute import make_host, make_pool

pytestmark = pytest.mark.django_db(transaction=True)

# What the scheduler never sees of a host. A new column belongs here, or into HOST_COLUMNS and the trigger.
UNWATCHED = {
    "id", "address", "state_reason", "ceiling_vcpus", "ceiling_memory_mib", "ceiling_disk_gib", "proof",
    "proved_at", "boot_id", "booted_at", "last_seen_at", "observed_at", "strays", "stray_disks", "clock_skew_seconds",
    "node_token_hash", "token", "version", "created_at",
}  # fmt: skip


FACTS = (
    {},
    {"cpu_models": ["Nehalem"], "cpu_flags": ["aes", "avx2"], "shared_storage_id": "store", "kernel": "6.1"},
    {"networks": ["net"], "images": ["image"], "shared_storage_id": "store"},
    {"numa": [{"id": 0, "cpus": [0, 1], "dedicated": [1], "memory_mib": 512, "huge_pages": []}]},
)


@pytest.fixture
def other() -> Iterator[psycopg.Connection]:
    """A second session of the database; nothing is committed by itself."""
    with psycopg.connect(**connection.get_connection_params() | {"cursor_factory": None}) as session:
        yield session
        session.rollback()


def _read(pool: Pool) -> list[HostState]:
    """The pool's hosts by the ORM, one by one."""
    rows = Host.objects.filter(pool=pool).exclude(admin_state="removed").select_related("pool")
    return [
        HostState(
            id=str(row.id),
            name=row.name,
            pool_id=str(row.pool_id),
            inventory=host_inventory(row),
            used=host_used(row),
            instances=row.used_instances,
            admin_state=row.admin_state,
            observed_state=row.observed_state,
            modes=frozenset(row.modes),
            traits=frozenset(row.traits),
            cpu_models=frozenset(row.facts.get("cpu_models", [])),
            cpu_flags=frozenset(row.facts.get("cpu_flags", [])),
            networks=frozenset(row.facts.get("networks", [""])),
            storages=frozenset([row.facts.get("shared_storage_id", "")]),
            images=frozenset(row.facts.get("images", [])),
            cells=free_cells(json.dumps(row.facts), json.dumps(row.numa_used)),
        )
        for row in rows
    ]


def _same(looked: Snapshot, read: list[HostState]) -> None:
    assert sorted(looked.hosts, key=lambda host: host.id) == sorted(read, key=lambda host: host.id)
    anew = Snapshot.from_hosts(looked.hosts)
    for name, column in anew.used.items():
        assert column.tolist() == looked.used[name].tolist()
        assert anew.capacity[name].tolist() == looked.capacity[name].tolist()
    assert anew.row_of == looked.row_of


def _touch(dice: random.Random, pools: list[Pool], hosts: list[Host]) -> None:
    """One of the changes that hosts go through."""
    rows = Host.objects.filter(id=dice.choice(hosts).id)
    match dice.randrange(10):
        case 0 | 1:
            rows.update(used_vcpus=F("used_vcpus") + 1, ceiling_vcpus=F("ceiling_vcpus") + 1)
        case 2:
            rows.update(held_disk_gib=dice.randrange(9), ceiling_disk_gib=1000)
        case 3:
            rows.update(observed_state=dice.choice(["up", "down", "suspect"]))
        case 4:
            rows.update(admin_state=dice.choice(["enabled", "draining", "removed"]))
        case 5:
            rows.update(pool=dice.choice(pools), traits=dice.choice([["ssd"], []]))
        case 6:
            hosts.append(make_host(dice.choice(pools)))
        case 7:
            Pool.objects.filter(id=dice.choice(pools).id).update(vcpu_ratio=dice.choice([1.0, 2.0, 4.0]))
        case 8:
            rows.update(facts=dice.choice(FACTS))
        case 9:
            rows.update(numa_used=dice.choice(([], [{"cell": 0, "cpus": [1], "memory_mib": 64, "pages": {}}])))


@pytest.mark.parametrize("seed", range(4))
def test_each_look_shows_the_hosts_as_a_full_read_does(seed: int) -> None:
    dice, looks = random.Random(seed), KeptHosts()
    pools = [make_pool(), make_pool()]
    hosts = [make_host(dice.choice(pools)) for _ in range(6)]
    for _ in range(60):
        with transaction.atomic():
            for _ in range(dice.randrange(1, 4)):
                _touch(dice, pools, hosts)
            if dice.random() < 0.3:
                for pool in pools:
                    _same(looks.look(pool.id), _read(pool))
            transaction.set_rollback(dice.random() < 0.3)
        for pool in pools:
            _same(looks.look(pool.id), _read(pool))
    assert {host.id for host in looks.look(None).hosts} == {host.id for pool in pools for host in _read(pool)}


def test_a_look_reads_what_has_changed_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, looks = make_pool(), KeptHosts()
    hosts = [make_host(pool) for _ in range(5)]
    looks.look(pool.id)
    built: list[str] = []
    honest = kept.host_from_row
    monkeypatch.setattr(kept, "host_from_row", lambda row: built.append(row[1]) or honest(row))
    looks.look(pool.id)
    assert built == []
    Host.objects.filter(id=hosts[3].id).update(used_instances=1)
    Host.objects.filter(id=hosts[2].id).update(last_seen_at=None, version=2)
    looks.look(pool.id)
    assert built == [hosts[3].name]


def _late_commit(other: psycopg.Connection, looks: KeptHosts) -> tuple[Pool, Host]:
    """A change by the older of two transactions, committed after the younger's was seen."""
    pool = make_pool()
    late, early = make_host(pool), make_host(pool)
    looks.look(pool.id)
    other.execute("UPDATE compute_host SET used_instances = 7 WHERE id = %s", [late.id])
    Host.objects.filter(id=early.id).update(used_instances=3)
    assert {host.instances for host in looks.look(pool.id).hosts} == {0, 3}
    other.commit()
    return pool, late


def test_a_transaction_that_began_first_and_commits_last_is_not_missed(other: psycopg.Connection) -> None:
    looks = KeptHosts()
    pool, _ = _late_commit(other, looks)
    assert {host.instances for host in looks.look(pool.id).hosts} == {7, 3}


def test_control_with_a_horizon_at_the_newest_change_it_would_be_missed(
    other: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = "(SELECT max(changed_in) + 1 FROM compute_host)"
    naive = kept._LOOK.replace("pg_snapshot_xmin(pg_current_snapshot())::text::bigint", newest)
    assert naive != kept._LOOK
    monkeypatch.setattr(kept, "_LOOK", naive)
    looks = KeptHosts()
    pool, _ = _late_commit(other, looks)
    assert {host.instances for host in looks.look(pool.id).hosts} == {0, 3}


def test_a_model_saved_whole_does_not_hide_a_change_that_is_not_seen_yet(other: psycopg.Connection) -> None:
    pool, looks = make_pool(), KeptHosts()
    host = make_host(pool)
    loaded = Host.objects.get(id=host.id)
    Host.objects.filter(id=host.id).update(traits=["ssd"])
    loaded.traits = ["ssd"]
    loaded.save()
    _same(looks.look(pool.id), _read(pool))
    Host.objects.filter(id=host.id).update(traits=["numa"])
    _same(looks.look(pool.id), _read(pool))


def test_hosts_of_a_table_that_was_emptied_are_gone() -> None:
    pool, looks = make_pool(), KeptHosts()
    make_host(pool)
    assert len(looks.look(pool.id)) == 1
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE compute_host CASCADE")
    assert len(looks.look(pool.id)) == 0
    assert len(looks.look(uuid.uuid4())) == 0


def test_the_trigger_watches_every_column_that_scheduling_reads() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(pg_get_triggerdef(oid), ' ') FROM pg_trigger"
            " WHERE tgname IN ('compute_host_updated', 'compute_host_domain_updated')"
        )
        watched = set(re.findall(r"old\.(\w+)", cursor.fetchone()[0]))
        cursor.execute("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'compute_pool_updated'")
        ratios = set(re.findall(r"old\.(\w+)", cursor.fetchone()[0]))
    assert set(re.findall(r"h\.(\w+)", HOST_COLUMNS)) - {"id"} <= watched
    assert set(re.findall(r"p\.(\w+)", HOST_COLUMNS)) == ratios
    assert {field.column for field in Host._meta.concrete_fields} == watched | UNWATCHED
