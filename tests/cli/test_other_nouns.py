"""Every other noun once, against the real API."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.api.conftest import World
from tests.api.test_shares import add_share
from tests.cli.conftest import Cli

KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(range(32))).decode() + " me@here"


def test_keypairs(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "id.pub"
    file.write_text(KEY + "\n")
    assert "SHA256:" in cli("keypair", "create", "laptop", str(file)).out
    assert cli("keypair", "list", "-o", "name").out == "laptop\n"
    cli("keypair", "create", "laptop", str(file), code=4)
    cli("keypair", "delete", "laptop", "--yes")
    assert cli("keypair", "list", "-o", "json").json == []


def test_groups(cli: Cli) -> None:
    assert "anti_affinity" in cli("group", "create", "web", "anti_affinity", "--max-per-domain", "2").out
    cli("group", "create", "web", "affinity", code=4)
    assert cli("group", "show", "web", "-o", "json").json["max_per_domain"] == 2
    assert cli("group", "list", "-o", "name").out == "web\n"
    cli("group", "delete", "web", "--yes")
    assert cli("group", "list", "-o", "json").json == []


def test_the_private_half_of_a_key_is_not_sent(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "id"
    file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert "private half" in cli("keypair", "create", "laptop", str(file), code=2).err


def test_hosts_and_pools(cli: Cli, world: World) -> None:
    name = world.host.name
    assert name in cli("host", "list", "--as-operator").out
    assert (
        cli("host", "disable", name, "--reason", "fan", "--as-operator", "-o", "json").json[0]["admin_state"]
        == "disabled"
    )
    assert cli("host", "show", name, "--as-operator", "-o", "json").json["state_reason"] == "fan"
    assert "rack-1" in cli("host", "domain", name, "rack-1", "--as-operator").out
    assert cli("host", "enable", name, "--as-operator", "-o", "json").json[0]["admin_state"] == "enabled"
    assert cli("host", "join-token", "lab", "--as-operator", "-o", "json").json["token"].startswith("cnj_")
    assert cli("pool", "list", "-o", "name").out == "lab\n"
    assert cli("pool", "show", "lab", "--as-operator", "-o", "json").json["hosts_up"] == 1
    assert "permission_denied" in cli("host", "list", code=1).err


def test_capacity_of_a_pool(cli: Cli, world: World) -> None:
    out = cli("pool", "capacity", "lab", "--as-operator").out
    assert "not enough history" in out
    fits = next(line.split() for line in out.splitlines() if line.startswith("nano"))
    found = cli("pool", "capacity", "lab", "--as-operator", "-o", "json").json
    assert fits[1] == str(found["fits"][0]["vm"]["count"])
    assert found["amounts"]["vcpus"]["free"] == world.host.total_vcpus
    assert "permission_denied" in cli("pool", "capacity", "lab", code=1).err


def test_shares_of_a_host_and_of_a_tenant(cli: Cli, world: World) -> None:
    add_share(world, world.tenant, 0.25)
    header, line = cli("host", "shares", world.host.name, "--as-operator").out.splitlines()
    assert header.split() == ["TENANT", "SHARES", "APPLIED", "DELIVERED", "WANTED", "ENTITLED"]
    assert line.split() == ["acme", "100", "100", "0.25", "0.25", "0.25"]
    assert cli("host", "shares", world.host.name, "--as-operator", "-o", "json").json[0]["delivered"] == 0.25
    assert cli("usage", "shares").out.splitlines()[1].split() == ["lab", "100", "0.25", "0.25", "0.25"]
    assert "permission_denied" in cli("host", "shares", world.host.name, code=1).err


def test_tenants_quotas_members_tokens_and_users(cli: Cli, world: World) -> None:
    child = cli("tenant", "create", "dev", "--limit", "instances=3", "-o", "json").json[0]
    assert cli("tenant", "show", "dev", "-o", "json").json["id"] == child["id"]
    assert cli("quota", "set", "instances=4", "vcpus=none", "--tenant", "dev", "-o", "json").json
    lines = {line["resource"]: line for line in cli("quota", "show", "--tenant", "dev", "-o", "json").json}
    assert lines["instances"]["limit"] == 4
    assert lines["vcpus"]["limit"] is None
    cli("tenant", "create", "west")
    assert cli("tenant", "move", "dev", "--to", "west", "--dry-run", "-o", "json").json["dry_run"] is True
    moved = cli("tenant", "move", "dev", "--to", "west", "--yes", "-o", "json").json
    assert moved["tenant"]["parent_id"] == moved["parent_id"]
    cli("tenant", "move", "dev", "--yes", code=2)
    cli("user", "create", "carol", "--password", "--as-operator", stdin="correct horse battery\n")
    assert "carol" in cli("user", "list", "--as-operator").out
    assert cli("member", "add", "carol", "--role", "admin", "-o", "json").json[0]["role"] == "admin"
    assert "carol" in cli("member", "list", "-o", "name").out
    cli("member", "remove", "carol", "--yes")
    made = cli("token", "create", "ci", "--scope", "read", "--days", "30", "-o", "json").json
    assert cli("whoami", "-o", "json", CENOTE_TOKEN=made["token"]).json["scope"] == "read"
    cli("token", "revoke", made["id"], "--yes")
    assert "token_invalid" in cli("whoami", code=1, CENOTE_TOKEN=made["token"]).err
    cli("tenant", "create", "below", "--parent", "dev")
    assert "1 tenant below it" in cli("tenant", "delete", "dev", "--yes", code=4).err
    plan = cli("tenant", "delete", "dev", "--dry-run", "-o", "json").json
    assert plan["counts"]["tenants"] == 2
    assert "with all it holds (2 tenants)" in cli("tenant", "delete", "dev", "--cascade", code=2).err
    assert "deleting dev" in cli("tenant", "delete", "dev", "--cascade", "--yes", "--no-wait").err
    assert cli("tenant", "show", "dev", "--as-operator", "-o", "json").json["state"] == "deleting"
    cli("tenant", "create", "spare")
    assert "deleted spare" in cli("tenant", "delete", "spare", "--yes").err


def test_operations_decisions_and_audit(cli: Cli) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    operation = cli("operation", "list", "--open", "-o", "json").json[0]
    assert cli("operation", "show", operation["id"], "-o", "json").json["state"] == "pending"
    assert cli("operation", "cancel", operation["id"], "-o", "json").json[0]["cancel_requested"] is True
    cli("operation", "retry", operation["id"], code=4)
    cli("operation", "wait", operation["id"], "--timeout", "0.1", code=5)
    decision = cli("decision", "list", "-o", "json").json[0]
    assert "placed: web" in cli("decision", "show", decision["id"]).out
    assert "instance.create" in cli("audit", "list").out


def test_flavors_and_images(cli: Cli) -> None:
    assert cli("flavor", "list", "-o", "name").out == "nano\n"
    assert cli("image", "show", "tiny", "-o", "json").json["kind"] == "vm"
    size = ("--vcpus", "2", "--memory-mib", "64", "--disk-gib", "1", "--kind", "vm", "--as-operator")
    asks = ("--pinned", "--numa-nodes", "2", "--hugepages-kib", "2048", "--cpu-model", "Nehalem", "--cpu-flag", "aes")
    cli("flavor", "create", "own", *size, *asks)
    made = cli("flavor", "show", "own", "-o", "json").json
    assert (made["pinned"], made["numa_nodes"], made["hugepages_kib"]) == (True, 2, 2048)
    assert (made["cpu_model"], made["cpu_flags"]) == ("Nehalem", ["aes"])
    uneven = (*size[:-3], "--numa-nodes", "4", "--kind", "vm", "--as-operator")
    assert "do not spread evenly over 4 cells" in cli("flavor", "create", "odd", *uneven, code=1).err
