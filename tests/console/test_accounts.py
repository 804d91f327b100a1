"""Books, usage and prices in the operators' console."""

from __future__ import annotations

import csv
import io
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from compute.models import BookCheck, Host, Price
from compute.selectors import usage
from compute.selectors.invariants import CHECKS
from compute.services.books import check_books
from compute.services.instances_create import create_instances
from tenants.models import Tenant, UsageSegment
from tenants.models.ids import new_id
from tests.factories.tenants import SYSTEM, make_tenant
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud


def test_the_books_show_every_invariant_before_the_first_check(people: People, cloud: Cloud) -> None:
    text = people.cloud_operator.get("/console/books").content.decode()
    assert "Not everything has been checked yet" in text
    assert text.count("not checked") == len(CHECKS)


def test_the_books_show_what_the_last_check_found(people: People, cloud: Cloud) -> None:
    cloud.create_running()
    cloud.node.beat()
    check_books()
    good = people.cloud_operator.get("/console/books").content.decode()
    assert f"All {len(CHECKS)} hold." in good
    Host.objects.filter(id=cloud.host.id).update(used_vcpus=5)
    assert people.cloud_operator.get("/console/books").content.decode().count("broken") == 0, "a page checks nothing"
    check_books()
    bad = people.cloud_operator.get("/console/books").content.decode()
    assert "1 violation." in bad
    assert "books say 5" in bad


def test_books_that_nobody_checks_any_more_say_so(people: People, cloud: Cloud) -> None:
    check_books()
    BookCheck.objects.update(checked_at=timezone.now() - timedelta(minutes=12))
    assert "Nobody has checked since" in people.cloud_operator.get("/console/books").content.decode()


def test_check_now_rings_and_checks_nothing_itself(people: People, cloud: Cloud) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        answer = people.cloud_operator.post("/console/books")
    assert answer["Location"] == "/console/books"
    assert any("pg_notify" in query["sql"] and "books" in query["sql"] for query in queries.captured_queries)
    assert not BookCheck.objects.exists()


def _use_an_hour(cloud: Cloud, *, tenant: Tenant | None = None) -> None:
    """One instance that ran for an hour at the beginning of this month or, early in it, was still in it."""
    create_instances(actor=SYSTEM, tenant=tenant or cloud.tenant, name="web", flavor="small", image="tiny")
    start = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    UsageSegment.unscoped.update(held_from=start, billed_from=start, ended_at=start + timedelta(minutes=1))
    for resource, price in (("vcpu", "0.60"), ("instance", "6")):
        since = start - timedelta(days=40)
        Price.objects.create(resource=resource, per_hour=price, currency="EUR", valid_from=since, set_by="tests")


def test_usage_goes_from_the_cloud_down_into_the_tree(people: People, cloud: Cloud) -> None:
    _use_an_hour(cloud)
    operator = people.cloud_operator
    whole = operator.get("/console/usage")
    row = next(row for row in whole.context["rows"] if row.id == str(cloud.tenant.id))
    assert (row.name, round(row.vcpu * 60, 6), f"{row.cost:.4f}") == (cloud.tenant.name, 1.0, "0.1100")
    assert f"tenant={cloud.tenant.id}" in whole.content.decode()
    below = operator.get(f"/console/usage?tenant={cloud.tenant.id}&by=instance&show=memory")
    assert [row.name for row in below.context["rows"]] == ["web"]
    assert below.context["total"].cost == whole.context["total"].cost
    assert len(below.context["bars"]) in range(28, 32)
    assert [bar.height for bar in below.context["bars"]][:2] == [100.0, 0.0]


def test_usage_of_a_deleted_tenant_is_marked_and_can_be_gone_into(people: People, cloud: Cloud) -> None:
    _use_an_hour(cloud)
    Tenant.objects.filter(id=cloud.tenant.id).update(state="deleted")
    whole = people.cloud_operator.get("/console/usage").content.decode()
    assert f'{cloud.tenant.name}</a> <span class="tag">deleted</span>' in whole
    below = people.cloud_operator.get(f"/console/usage?tenant={cloud.tenant.id}&by=instance")
    assert [row.name for row in below.context["rows"]] == ["web"]
    assert "which is deleted," in below.content.decode()
    csv_file = people.cloud_operator.get(f"/console/usage/lines.csv?tenant={cloud.tenant.id}&by=instance")
    assert b"web" in csv_file.content


def test_the_portal_goes_into_tenants_below_and_into_deleted_ones(people: People, cloud: Cloud) -> None:
    team = make_tenant("team", parent=cloud.tenant)
    _use_an_hour(cloud, tenant=team)
    link = f"tenant={team.id}"
    assert link in people.viewer.get("/usage").content.decode()
    Tenant.objects.filter(id=team.id).update(state="deleted")
    assert '<span class="tag">deleted</span>' in people.viewer.get("/usage").content.decode()
    page = people.viewer.get(f"/usage?{link}&by=instance")
    assert [row.name for row in page.context["rows"]] == ["web"]
    assert page.context["path"] == [(cloud.tenant.id, cloud.tenant.name)]
    assert f"by=instance&amp;{link}" in page.content.decode(), "the CSV is of the same tenant"
    assert b"web" in people.viewer.get(f"/usage/lines.csv?{link}&by=instance").content
    assert people.stranger.get(f"/usage?{link}").status_code == 404
    assert people.stranger.get(f"/usage?tenant={cloud.tenant.id}").status_code == 404


def test_more_instances_than_a_page_shows_are_shown_by_flavor(
    people: People, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_an_hour(cloud)
    assert people.owner.get("/usage").context["by"] == "instance"
    monkeypatch.setattr(usage, "MAX_GROUPS", 40)  # more than a month has days
    segment = UsageSegment.unscoped.get()
    for _ in range(40):
        segment.pk, segment.consumer_id = new_id(), uuid.uuid4()
        segment.save(force_insert=True)
    page = people.owner.get("/usage")
    assert (page.status_code, page.context["by"]) == (200, "flavor")
    assert [row.name for row in page.context["rows"]] == ["small"]
    assert people.owner.get("/usage/lines.csv?by=flavor").status_code == 200
    assert people.owner.get("/usage/lines.csv?by=instance").status_code == 400


def test_the_costs_as_a_file(people: People, cloud: Cloud) -> None:
    _use_an_hour(cloud)
    answer = people.owner.get("/usage/lines.csv")
    assert answer["Content-Disposition"].startswith("attachment;")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert {row["resource"]: row["cost"] for row in rows} == {"vcpu": "0.010000", "instance": "0.100000"}
    assert len(list(csv.reader(io.StringIO(people.stranger.get("/usage/lines.csv").content.decode())))) == 1
    console = people.cloud_operator.get("/console/usage/lines.csv?by=flavor").content.decode()
    assert len(console.splitlines()) == 3
    assert people.owner.get("/console/usage/lines.csv").status_code == 404


@pytest.mark.parametrize("query", ["month=2026-99", "month=1999-01", "month=9999-12", "month=x", "by=host", "show=x"])
def test_an_address_that_makes_no_sense_shows_this_month(query: str, people: People, cloud: Cloud) -> None:
    now = timezone.now()
    for path in ("/usage", "/console/usage", "/usage/lines.csv"):
        answer = people.cloud_operator.get(f"{path}?{query}")
        assert answer.status_code == 200, path
    assert people.cloud_operator.get(f"/console/usage?{query}").context["month"].strftime("%Y-%m") == f"{now:%Y-%m}"


def test_prices_are_set_and_ended(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    values: dict[str, Any] = {
        "resource": "vcpu",
        "per_hour": "0.0125",
        "currency": "eur",
        "flavor": "small",
        "pool": "",
        "valid_from": "",
    }
    assert operator.post("/console/prices", values).status_code == 302
    price = Price.objects.get()
    # A book with one price, not begun yet, may still change its currency: here is another.
    other = Price.objects.create(
        resource="instance", per_hour=1, currency="EUR", valid_from=timezone.now(), set_by="tests"
    )
    assert (str(price), price.flavor.name, price.set_by) == ("vcpu 0.012500 EUR", "small", "the-cloud-operator")  # type: ignore[union-attr]
    assert "0.0125 EUR" in operator.get("/console/prices").content.decode()
    later = (timezone.now() + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M")
    operator.post("/console/prices", values | {"per_hour": "0.02", "valid_from": later})
    planned = Price.objects.get(per_hour="0.02")
    operator.post(f"/console/prices/{planned.id}/end")
    assert Price.objects.exclude(id=other.id).get().valid_until is None
    for wrong in (
        {"per_hour": "x"},
        {"per_hour": "NaN"},
        {"valid_from": "x"},
        {"currency": "USD"},
        {"resource": "gpu"},
    ):
        answer = operator.post("/console/prices", values | wrong)
        assert answer.status_code == 400, wrong
        assert list(answer.context["form"].errors) == list(wrong)
    assert people.owner.post(f"/console/prices/{price.id}/end").status_code == 404
    assert Price.objects.count() == 2
