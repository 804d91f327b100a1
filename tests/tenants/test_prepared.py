"""Statements that the server prepares: what goes in comes out, and Django sees them as its own."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import DataError, IntegrityError, connection, transaction
from pytest_django import DjangoAssertNumQueries

from tenants import prepared
from tenants.models import Tenant
from tests.factories.tenants import make_tenant

pytestmark = pytest.mark.django_db

ONE = uuid.uuid4()


def _tenant(name: str) -> Tenant:
    new = uuid.uuid4()
    return Tenant(id=new, name=name, path=[new])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uuid[]", [ONE, None, uuid.uuid4()]),
        ("bigint[]", [0, -1, 2**62, None]),
        ("boolean[]", [True, False, None]),
        ("text[]", ["", "a b", 'say "x"', "back\\slash", "NULL", None, "{a,b}", "žluť\n\t", "%s", "'; --"]),
        ("text[]", []),
    ],
)
def test_an_array_arrives_as_it_was_sent(kind: str, values: list[Any]) -> None:
    sql = "SELECT %s::" + kind

    assert prepared.run(sql, [values]) == [(values,)]
    assert prepared.run("SELECT %(given)s::" + kind, {"given": values}) == [(values,)]


def test_what_is_asked_together_is_answered_each_for_itself() -> None:
    with prepared.together():
        first = prepared.ask("SELECT 1 WHERE %s::boolean", [False])
        prepared.send("SET LOCAL lock_timeout = 1000", [])
        second = prepared.ask("SELECT generate_series(1, %s)", [2])
        assert second() == [(1,), (2,)]
        third = prepared.ask("SHOW lock_timeout", [])

    assert (first(), third()) == ([], [("1s",)])


def test_what_fails_together_fails_at_the_end() -> None:
    reached = []

    def send_two() -> None:
        with transaction.atomic(), prepared.together():
            prepared.send("SELECT 1 / %s", [0])
            reached.append(1)

    with pytest.raises(DataError):
        send_two()
    assert reached
    assert prepared.run("SELECT 1", []) == [(1,)]


def test_rows_are_inserted_with_what_the_database_fills_in() -> None:
    tenant = _tenant("from-here")

    prepared.insert([tenant], created_at="'2020-01-01T00:00:00Z'::timestamptz")

    assert Tenant.objects.get(id=tenant.id).created_at.year == 2020


def test_errors_are_those_of_django() -> None:
    tenant = make_tenant("twice")

    with pytest.raises(IntegrityError), transaction.atomic():
        prepared.insert([Tenant(id=tenant.id, name="other", path=[tenant.id])])


def test_a_broken_transaction_runs_nothing_more() -> None:
    with transaction.atomic():
        connection.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError):
            prepared.run("SELECT 1", [])
        connection.set_rollback(False)


def test_statements_show_in_the_log_of_queries(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(2) as captured:
        prepared.run("SELECT %s::text", ["what"])
        with prepared.together():
            prepared.insert([_tenant("seen")])

    assert [captured[0]["sql"], captured[1]["sql"][:11]] == ["SELECT $1::text", "INSERT INTO"]
