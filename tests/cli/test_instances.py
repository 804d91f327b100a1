"""cenote instance ...: what people and scripts see."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from compute.models import Operation
from tests.api.conftest import World
from tests.cli.conftest import Cli
from tests.factories.compute import make_flavor
from tests.factories.nodes import play, run_to_end


def test_create_without_waiting_prints_the_instance(cli: Cli) -> None:
    made = cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--tag", "a=b", "--no-wait", "-o", "json").json
    assert made["name"] == "web"
    assert made["status"] == "building"
    assert made["tags"] == {"a": "b"}
    assert cli("instance", "show", made["id"], "-o", "json").json["name"] == "web"


def test_create_waits_for_the_end_of_the_operation(cli: Cli, world: World, tmp_path: Path) -> None:
    process = cli.start("instance", "create", "web", "-f", "nano", "-i", "tiny", "-o", "json")
    until = time.monotonic() + 20
    while (operation := Operation.objects.first()) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    run_to_end(operation.id, play(world.host, tmp_path))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["state"] == "active"


def test_waiting_ends_with_5_when_time_is_up(cli: Cli) -> None:
    ran = cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--timeout", "0.1", code=5)
    assert "cenote operation wait" in ran.err
    assert ran.out == ""


def test_list_as_table_json_yaml_name_and_columns(cli: Cli) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--count", "2", "--no-wait")
    table = cli("instance", "list").out.splitlines()
    assert table[0].split() == ["NAME", "STATUS", "KIND", "FLAVOR", "IMAGE", "ADDRESS", "LEASE", "ENDS", "AGE"]
    assert {line.split()[0] for line in table[1:]} == {"web-1", "web-2"}
    assert "\x1b" not in "".join(table)
    rows = cli("instance", "list", "-o", "json").json
    assert yaml.safe_load(cli("instance", "list", "-o", "yaml").out) == rows
    assert sorted(cli("instance", "list", "-o", "name").out.split()) == ["web-1", "web-2"]
    chosen = cli("instance", "list", "-o", "columns=name,flavor.vcpus,addresses.0.address").out.splitlines()
    assert chosen[0].split() == ["NAME", "FLAVOR.VCPUS", "ADDRESSES.0.ADDRESS"]
    assert {line.split()[2] for line in chosen[1:]} == {row["addresses"][0]["address"] for row in rows}


def test_a_dry_run_says_what_would_happen_and_makes_nothing(cli: Cli, world: World) -> None:
    told = cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--count", "3", "--dry-run").out
    assert told.startswith("Fits: 3 asked, 8 would be taken now.")
    assert world.host.name not in told
    assert cli("instance", "list", "-o", "json").json == []
    operator = cli(
        "instance", "create", "web", "-f", "nano", "-i", "tiny", "--tenant", "acme", "--dry-run", "--as-operator"
    )
    assert f"web would go to {world.host.name}." in operator.out
    refused = cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--count", "9", "--dry-run", code=4)
    assert "It would fit with: Ask for 8 instances instead of 9." in refused.out
    assert "no_valid_host" in refused.err


def test_operators_see_the_host(cli: Cli, world: World) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    assert world.host.name in cli("instance", "list", "--as-operator").out
    assert world.host.name not in cli("instance", "list").out


def test_what_is_not_there_ends_with_3_in_one_line(cli: Cli) -> None:
    ran = cli("instance", "show", "nosuch", code=3)
    assert ran.out == ""
    assert ran.err == "cenote: There is no instance 'nosuch' here. (not_found)\n"


def test_refusals_end_with_4_and_say_what_would_fit(cli: Cli) -> None:
    cli("flavor", "create", "huge", "--vcpus", "64", "--memory-mib", "1024", "--disk-gib", "1", "--as-operator")
    ran = cli("instance", "create", "web", "-f", "huge", "-i", "tiny", code=4)
    assert len(ran.err.splitlines()) == 1
    assert "no_valid_host" in ran.err
    assert "It would fit with:" in ran.err


def test_quota_refusals_name_the_numbers(cli: Cli, world: World) -> None:
    cli("quota", "set", "instances=0", "--tenant", str(world.tenant.id), "--as-operator")
    ran = cli("instance", "create", "web", "-f", "nano", "-i", "tiny", code=4)
    assert "may use 0 instances, uses 0, and 1 more were asked for" in ran.err
    assert "quota_exceeded" in ran.err


def test_wrong_fields_are_named(cli: Cli) -> None:
    ran = cli("instance", "create", "Bad_Name", "-f", "nosuch", "-i", "tiny", code=1)
    assert "/name" in ran.err
    ran = cli("instance", "create", "good", "-f", "nosuch", "-i", "tiny", code=1)
    assert "/flavor: There is no flavor 'nosuch' here." in ran.err


def test_wrong_use_ends_with_2(cli: Cli) -> None:
    cli("instance", "create", "web", code=2)
    cli("instance", "list", "-o", "xml", code=2)
    cli("instance", "show", "a/b", code=2)
    cli("nosuchnoun", code=2)


def test_the_same_key_again_makes_nothing_twice(cli: Cli) -> None:
    line = (
        "instance",
        "create",
        "web",
        "-f",
        "nano",
        "-i",
        "tiny",
        "--no-wait",
        "--idempotency-key",
        "k1",
        "-o",
        "json",
    )
    assert cli(*line).json["id"] == cli(*line).json["id"]
    assert len(cli("instance", "list", "-o", "json").json) == 1


def test_delete_asks_first(cli: Cli) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    refused = cli("instance", "delete", "web", code=2)
    assert "--yes" in refused.err
    assert "deleting web" in cli("instance", "delete", "web", "--yes", "--no-wait").err


def test_debug_shows_curl_without_the_token(cli: Cli, world: World) -> None:
    ran = cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait", "--debug", "-o", "name")
    assert "curl -X POST" in ran.err
    assert "Idempotency-Key" in ran.err
    assert world.owner.token not in ran.err + ran.out
    assert ran.out == "web\n"


def test_explain_tells_tenants_and_operators_apart(cli: Cli, world: World) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    for_tenant = cli("instance", "explain", "web").out
    assert "placed: web" in for_tenant
    assert world.host.name not in for_tenant
    assert f"It is on {world.host.name}." in cli("instance", "explain", "web", "--as-operator").out


def test_a_lease_is_given_changed_and_taken_away(cli: Cli) -> None:
    made = cli(
        *("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait", "-o", "json"),
        *("--lease", "1d12h", "--lease-action", "delete"),
    ).json
    left = datetime.fromisoformat(made["lease"]["ends_at"]) - datetime.now(UTC)
    assert (made["lease"]["action"], round(left.total_seconds() / 3600)) == ("delete", 36)
    changed = cli("instance", "lease", "web", "90m", "-o", "json").json[0]["lease"]
    left = datetime.fromisoformat(changed["ends_at"]) - datetime.now(UTC)
    assert (changed["action"], round(left.total_seconds() / 60)) == ("delete", 90)
    at = (datetime.now().astimezone() + timedelta(days=400)).replace(microsecond=0)
    shown = f"{at:%Y-%m-%d %H:%M}"
    told = cli("instance", "lease", "web", at.isoformat(), "--action", "stop").out
    assert told.split() == ["NAME", "LEASE", "ENDS", "ACTION", "web", *shown.split(), "stop"]
    assert shown in cli("instance", "list").out
    assert shown in cli("instance", "show", "web").out
    assert cli("instance", "lease", "web", "none", "-o", "json").json[0]["lease"] is None


@pytest.mark.parametrize("text", ["", "8", "h", "8x", "1h1d", "٣h", "2040-01-31T12:00:00", "soon"])
def test_what_is_no_lease_is_told_before_anything_is_sent(cli: Cli, text: str) -> None:
    assert "a lease is a length, as 90m, 8h or 1d12h" in cli("instance", "lease", "web", text, code=2).err


def test_a_lease_that_is_too_short_and_an_action_without_a_lease_are_refused(cli: Cli) -> None:
    create = ("instance", "create", "web", "-f", "nano", "-i", "tiny")
    assert "60 seconds at the earliest" in cli(*create, "--lease", "5s", code=1).err
    assert "give --lease as well" in cli(*create, "--lease-action", "stop", code=2).err
    assert "leave --action out" in cli("instance", "lease", "web", "none", "--action", "stop", code=2).err


def test_resize_is_told_before_and_done_after_a_stop(cli: Cli, world: World, tmp_path: Path) -> None:
    make_flavor("big", vcpus=2)
    make_flavor("wide", vcpus=500)
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    node = play(world.host, tmp_path)
    run_to_end(Operation.objects.get().id, node)
    assert "not stopped" in cli("instance", "resize", "web", "-f", "big", code=4).err
    cli("instance", "stop", "web", "--force", "--no-wait")
    run_to_end(Operation.objects.get(kind="instance_stop").id, node)
    told = cli("instance", "resize", "web", "-f", "big", "--dry-run")
    assert [line.split()[:2] for line in told.out.splitlines()[:3]] == [
        ["SIZE", "FLAVOR"],
        ["now", "nano"],
        ["then", "big"],
    ]
    assert "vcpus" in told.out
    refused = cli("instance", "resize", "web", "-f", "wide", "--dry-run", code=4)
    assert "no_valid_host" in refused.err
    assert "499 more would be needed" in refused.out
    assert not Operation.objects.filter(kind="instance_resize").exists()
    cli("instance", "resize", "web", "-f", "big", "--no-wait")
    assert cli("instance", "show", "web", "-o", "json").json["status"] == "resizing"
    run_to_end(Operation.objects.get(kind="instance_resize").id, node)
    assert cli("instance", "show", "web", "-o", "json").json["flavor"]["vcpus"] == 2
