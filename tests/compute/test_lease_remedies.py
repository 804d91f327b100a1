"""Waiting for the end of a lease as a remedy: what counts, who is told what, and that no wait is offered in vain."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from compute.errors import NoAddressLeft, NoValidHost
from compute.models import Decision, Host, Instance, Network, Pool
from compute.placement import lease_rows
from compute.scheduler.flight import replay
from compute.selectors.decisions import shown_remedies
from compute.services.flight import flight_lines, set_recording
from compute.services.grants import Terms, create_grant
from compute.services.groups import create_group
from compute.services.instances_create import create_instances
from compute.services.instances_forecast import forecast_instances
from compute.services.lease_terms import LeaseAsk
from compute.services.leases import change_lease
from tenants.errors import QuotaExceeded
from tenants.models import Tenant
from tenants.scope import ALL
from tenants.services.quotas import set_limit
from tests.compute.offers import REFUSALS, end
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_actor, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pool() -> Pool:
    """Two hosts of 4 vCPU."""
    make_image("tiny")
    for name, vcpus in (("one", 1), ("two", 2), ("three", 3)):
        make_flavor(name, vcpus=vcpus, memory_mib=64)
    pool = make_pool("lab")
    for number in range(2):
        make_host(pool, vcpus=4, name=f"lab-{number}")
    return pool


@pytest.fixture
def acme(pool: Pool) -> Tenant:
    return make_tenant("acme")


@pytest.fixture
def rival(pool: Pool) -> Tenant:
    return make_tenant("rival")


def _create(tenant: Tenant, name: str, flavor: str, *, minutes: int | None = None, **fields: Any) -> Instance:
    lease = LeaseAsk(seconds=60 * minutes, action="delete") if minutes else None
    made = create_instances(
        actor=make_actor("operator", tenant),
        tenant=tenant,
        name=name,
        flavor=flavor,
        image="tiny",
        lease=lease,
        **fields,
    )
    return made.instances[0]


def _refused(tenant: Tenant, flavor: str = "two", **fields: Any) -> list[dict[str, Any]]:
    """The waits that a refused create is offered."""
    with pytest.raises(REFUSALS) as refused:
        _create(tenant, "web", flavor, **fields)
    return [one for one in refused.value.data["remedies"] if one["changes"][0]["kind"] == "wait_for_lease"]


def _all_told() -> list[dict[str, Any]]:
    """The same as operators are told it."""
    decision = Decision.unscoped.filter(outcome="refused").order_by("-created_at")[0]
    told = shown_remedies(decision=decision, visible=ALL)
    return [one for one in told if one["changes"][0]["kind"] == "wait_for_lease"]


def test_tenants_are_told_the_time_and_their_own_and_operators_who_leaves_which_host(
    acme: Tenant, rival: Tenant
) -> None:
    _create(rival, "theirs", "three", minutes=10, pool="lab")
    mine = _create(acme, "mine", "three", minutes=20, pool="lab")
    Instance.unscoped.filter(id=mine.id).update(lease_ends_at=Instance.unscoped.get(name="theirs").lease_ends_at)
    at = Instance.unscoped.get(name="theirs").lease_ends_at
    assert at is not None
    (wait,) = _refused(acme, count=4)
    moment = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    assert wait["sentence"] == f"Wait until {moment}, when the lease of mine ends."
    (change,) = wait["changes"]
    assert datetime.fromisoformat(change["ends_at"]) == at
    assert [leaver["instance"] for leaver in change["leases"]] == ["mine"]
    assert wait["body"] is None
    assert "theirs" not in str(wait)
    assert "lab-" not in str(wait)
    on = {row.name: row.host.name for row in Instance.unscoped.select_related("host") if row.host}
    (told,) = _all_told()
    assert told["sentence"] == (
        f"Wait until {moment}, when the leases of theirs on {on['theirs']} and mine on {on['mine']} end."
    )


def test_who_sees_none_of_those_that_leave_is_told_the_time_alone(acme: Tenant, rival: Tenant) -> None:
    for number in range(2):
        _create(rival, f"theirs-{number}", "three", minutes=10 + number)
    (wait,) = _refused(acme)
    assert wait["sentence"].endswith("UTC, when leases end.")
    assert "leases" not in wait["changes"][0]
    (told,) = _all_told()
    assert [leaver["instance"] for leaver in told["changes"][0]["leases"]] == ["theirs-0"]


def test_only_instances_that_a_lease_deletes_and_that_can_be_reached_count(acme: Tenant) -> None:
    stops = _create(acme, "stops", "three")
    change_lease(actor=SYSTEM, instance_id=stops.id, lease=LeaseAsk(seconds=600, action="stop"))
    leaves = _create(acme, "leaves", "three", minutes=20)
    host = Host.objects.get(instances=leaves)
    assert len(_refused(acme)) == 1
    Host.objects.filter(id=host.id).update(observed_state="suspect")
    assert _refused(acme) == [], "nobody knows when it gives anything back"
    Host.objects.filter(id=host.id).update(observed_state="up")
    Instance.unscoped.filter(id=leaves.id).update(lease_ends_at=Now() - timedelta(seconds=1))
    assert _refused(acme) == [], "what has ended is at work already"


def test_a_dry_run_offers_the_wait_as_well(acme: Tenant) -> None:
    for number in range(2):
        _create(acme, f"web-{number}", "three", minutes=10 + number)
    asked = {"tenant": acme, "name": "web", "flavor": "two", "image": "tiny"}
    forecast = forecast_instances(actor=SYSTEM, **asked)  # type: ignore[arg-type]
    (wait,) = [one for one in forecast.remedies if one["changes"][0]["kind"] == "wait_for_lease"]
    assert [leaver["instance"] for leaver in wait["changes"][0]["leases"]] == ["web-0"]


def test_a_lease_below_the_same_tenant_gives_quota_back(acme: Tenant) -> None:
    below = make_tenant("below", parent=acme)
    set_limit(actor=SYSTEM, tenant=acme, resource="vcpus", limit=3)
    _create(below, "first", "one", minutes=10)
    _create(acme, "later", "one", minutes=20)
    (wait,) = _refused(acme, "two")
    assert [leaver["instance"] for leaver in wait["changes"][0]["leases"]] == ["first"]
    _create(acme, "small", "one")
    (wait,) = _refused(acme, "two")
    assert [leaver["instance"] for leaver in wait["changes"][0]["leases"]] == ["first", "later"]


def test_room_is_waited_for_and_quota_raised_where_the_leases_are_others(acme: Tenant, rival: Tenant) -> None:
    for number in range(2):
        _create(rival, f"theirs-{number}", "three", minutes=10)
    set_limit(actor=SYSTEM, tenant=acme, resource="vcpus", limit=1)
    with pytest.raises((NoValidHost, QuotaExceeded)) as refused:
        _create(acme, "web", "two")
    kinds = [[change["kind"] for change in one["changes"]] for one in refused.value.data["remedies"]]
    assert ["wait_for_lease", "raise_quota"] in kinds
    assert ["wait_for_lease"] not in kinds


def test_an_address_comes_back_with_a_lease(acme: Tenant, pool: Pool) -> None:
    make_host(pool, vcpus=64)
    Network.objects.update(cidr="10.0.0.0/27")
    made: list[Instance] = []
    with contextlib.suppress(NoAddressLeft):
        while True:
            made.append(_create(acme, f"web-{len(made)}", "one", minutes=10 + len(made)))
    (wait,) = _refused(acme, "one")
    assert [leaver["instance"] for leaver in wait["changes"][0]["leases"]] == ["web-0"]
    end(str(made[0].id))
    _create(acme, "web", "one")


def test_a_member_of_the_group_that_leaves_makes_a_place_for_another(acme: Tenant) -> None:
    create_group(actor=SYSTEM, tenant=acme, name="apart", rule="anti_affinity")
    for number in range(2):
        _create(acme, f"web-{number}", "one", minutes=20 - number, group="apart")
    (wait,) = _refused(acme, "one", group="apart")
    assert [leaver["instance"] for leaver in wait["changes"][0]["leases"]] == ["web-1"]


def test_a_group_that_shares_a_host_is_offered_no_wait(acme: Tenant) -> None:
    """Were its last member on a host to leave with the others, another host would be the group's."""
    create_group(actor=SYSTEM, tenant=acme, name="together", rule="affinity")
    _create(acme, "web-0", "three", minutes=10, group="together")
    assert _refused(acme, "two", group="together") == []


def test_what_fills_a_reservation_comes_back_to_that_reservation(acme: Tenant, rival: Tenant, pool: Pool) -> None:
    Pool.objects.update(host_losses=0)
    pool.refresh_from_db()
    unit = make_flavor("unit", vcpus=4, memory_mib=64)
    create_grant(actor=SYSTEM, tenant=acme, pool=pool, flavor=unit, terms=Terms(units=1))
    promised = _create(acme, "promised", "three", minutes=10)
    _create(rival, "open", "three", minutes=20)
    (wait,) = _refused(acme, "two")
    assert [leaver["instance"] for leaver in wait["changes"][0]["leases"]] == ["promised"]
    _refused(rival, "two")
    (told,) = _all_told()
    assert [leaver["instance"] for leaver in told["changes"][0]["leases"]] == ["open"]
    end(str(promised.id))
    _create(acme, "web", "two")


def test_what_a_sibling_has_drawn_from_the_grant_above_comes_back_to_it(rival: Tenant, pool: Pool) -> None:
    Pool.objects.update(host_losses=0)
    pool.refresh_from_db()
    unit, root = make_flavor("unit", vcpus=4, memory_mib=64), make_tenant("root")
    create_grant(actor=SYSTEM, tenant=root, pool=pool, flavor=unit, terms=Terms(units=1))
    leaf, sibling = make_tenant("leaf", parent=root), make_tenant("sibling", parent=root)
    for tenant in (leaf, sibling):
        create_grant(actor=SYSTEM, tenant=tenant, pool=pool, flavor=None, terms=Terms(units=0, expandable=True))
    drawn = _create(sibling, "drawn", "one", minutes=20)
    _create(rival, "open", "three", minutes=30)
    _refused(leaf, "two")
    (told,) = _all_told()
    assert [leaver["instance"] for leaver in told["changes"][0]["leases"]] == ["drawn"]
    end(str(drawn.id))
    _create(leaf, "web", "two")


def test_without_leases_nothing_is_added_to_a_refusal_but_one_question(acme: Tenant) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert _refused(acme, "three", count=3) == []
    asked = [query["sql"] for query in queries if "lease_ends_at > statement_timestamp()" in query["sql"]]
    assert len(asked) == 1


def test_the_question_is_answered_by_the_index_of_leases(acme: Tenant) -> None:
    _create(acme, "web", "one", minutes=10)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # of one instance everything is read as soon
        values = {"pool": None, "levels": [acme.id], "networks": [], "moving": [], "most": 9}
        cursor.execute(" ".join(("EXPLAIN", lease_rows._ENDS)), values)
        assert "instance_lease_end" in " ".join(row[0] for row in cursor.fetchall())


def test_a_refusal_with_a_wait_is_replayed_bit_for_bit(acme: Tenant, pool: Pool) -> None:
    set_recording(actor=SYSTEM, pool=pool, on=True)
    for number in range(2):
        _create(acme, f"web-{number}", "three", minutes=10 + number)
    (wait,) = _refused(acme)
    Instance.unscoped.update(lease_ends_at=Now() + timedelta(days=3))
    report = replay(flight_lines(pool=pool))
    assert (len(report.decisions), report.same) == (3, True)
    decision = Decision.unscoped.get(outcome="refused")
    assert wait in shown_remedies(decision=decision, visible=frozenset({acme.id})), "it tells of the leases of its time"
