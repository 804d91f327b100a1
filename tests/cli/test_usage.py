"""cenote usage ..., cenote price ...: what people and scripts see."""

from __future__ import annotations

import csv
import io
from datetime import timedelta

from django.utils import timezone

from compute.models import Price
from tenants.models import UsageSegment
from tests.api.conftest import World
from tests.cli.conftest import Cli


def _used_for_two_hours(cli: Cli) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    end = timezone.now().replace(microsecond=0) - timedelta(minutes=1)
    begin = end - timedelta(hours=2)
    UsageSegment.unscoped.update(held_from=begin, billed_from=begin, ended_at=end)


def _yesterday() -> str:
    return (timezone.now() - timedelta(days=1)).date().isoformat()


def test_usage_as_a_table_ends_with_the_total(cli: Cli, world: World) -> None:
    _used_for_two_hours(cli)
    lines = cli("usage", "show", "--from", _yesterday()).out.splitlines()
    assert lines[0].split() == [
        "NAME",
        "INSTANCE",
        "HOURS",
        "VCPU",
        "HOURS",
        "MEMORY",
        "GIB",
        "HOURS",
        "DISK",
        "GIB",
        "HOURS",
    ]
    assert lines[1].split() == ["acme", "2.00", "2.00", "0.50", "2.00"]
    assert lines[-1].split() == ["total", "2.00", "2.00", "0.50", "2.00"]
    assert cli("usage", "show", "--from", _yesterday(), "-o", "name").out.split() == ["acme"]
    report = cli("usage", "show", "--from", _yesterday(), "--by", "instance", "-o", "json").json
    assert (report["groups"][0]["name"], report["total"]["vcpu_seconds"]) == ("web", 7200)


def test_cost_as_table_json_and_csv(cli: Cli) -> None:
    _used_for_two_hours(cli)
    Price.objects.create(
        resource="vcpu",
        per_hour="0.25",
        currency="EUR",
        valid_from=timezone.now().replace(microsecond=0) - timedelta(days=2),
        set_by="root",
    )
    table = cli("usage", "cost", "--from", _yesterday()).out.splitlines()
    assert table[1].split() == ["acme", "vcpu", "2.000000", "0.250000", "0.500000"]
    assert cli("usage", "cost", "--from", _yesterday(), "-o", "name").out.split() == ["acme"]
    assert table[-1].split()[-2:] == ["0.500000", "EUR"]
    assert cli("usage", "cost", "--from", _yesterday(), "-o", "json").json["total"] == "0.500000"
    rows = list(csv.DictReader(io.StringIO(cli("usage", "cost", "--from", _yesterday(), "--csv").out)))
    assert [(row["resource"], row["cost"]) for row in rows] == [("vcpu", "0.500000")]


def test_prices_are_set_listed_and_ended(cli: Cli) -> None:
    tomorrow = (timezone.now() + timedelta(days=1)).date().isoformat()
    arguments = ("vcpu", "0.0125", "--currency", "EUR", "--flavor", "nano", "--from", tomorrow, "--as-operator")
    made = cli("price", "set", *arguments, "-o", "json").json[0]
    assert made["valid_from"] == f"{tomorrow}T00:00:00Z"
    assert cli("price", "list").out.splitlines()[1].split()[:2] == ["vcpu", "nano"]
    assert "permission_denied" in cli("price", "end", made["id"], "--yes", code=1).err
    cli("price", "end", made["id"], "--yes", "--as-operator")
    assert cli("price", "list", "-o", "json").json == []


def test_a_wrong_period_is_told(cli: Cli) -> None:
    assert "from" in cli("usage", "show", "--from", "yesterday", code=1).err
