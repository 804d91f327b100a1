"""One row for each route: how to call it, and what it does to whom. `test_matrix.py` tries every row as everybody.

A route without a row fails the build; so does a row without a route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compute.models import Decision, Grant, Group, Host, Instance, Keypair, Migration, Operation, Plan, Price
from tenants.models import ApiToken, Tenant, User
from tests.api.conftest import World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@dataclass(frozen=True)
class Things:
    """A world in which every kind of object exists once."""

    world: World
    instance: Instance
    runner: Instance
    operation: Operation
    stuck: Operation
    decision: Decision
    keypair: Keypair
    group: Group
    child: Tenant
    carol: User
    token: ApiToken
    spare_host: Host
    down_host: Host
    fenced_host: Host
    heard_host: Host
    price: Price
    grant: Grant
    migration: Migration
    plan: Plan
    running_plan: Plan
    paused_plan: Plan


@dataclass(frozen=True)
class Row:
    """`path`: below /api/v1/. `object_id`: of the tenant's object in the path; a stranger must not tell it from a random id.

    `from_above`: decided by the tenant above, so that only cloud operators may do it to a top tenant.
    """

    method: str
    path: Callable[[Things], str]
    body: Callable[[Things], Any] = field(default=lambda things: None)
    object_id: Callable[[Things], object] | None = None
    from_above: bool = False
    operator_query: str = ""
    operator_body: Mapping[str, str] = field(default_factory=dict)


def _at(path: str) -> Callable[[Things], str]:
    return lambda things: path


def _of(before: str, thing: Callable[[Things], Any], after: str = "") -> Callable[[Things], str]:
    return lambda things: f"{before}/{thing(things).id}{after}"


def _body(**fields: Any) -> Callable[[Things], Any]:
    return lambda things: fields


INSTANCE: Callable[[Things], Any] = lambda things: things.instance  # noqa: E731
TENANT: Callable[[Things], Any] = lambda things: things.world.tenant  # noqa: E731


GRANT: Callable[[Things], Any] = lambda things: things.grant  # noqa: E731


def _instance_id(things: Things) -> object:
    return things.instance.id


_MINE = "tenant=acme"

ROWS: dict[str, Row] = {
    "me_show": Row("GET", _at("me")),
    "tenant_list": Row("GET", _at("tenants")),
    "tenant_create": Row("POST", _at("tenants"), _body(name="sub")),
    "tenant_show": Row("GET", _of("tenants", TENANT), object_id=lambda things: things.world.tenant.id),
    "tenant_update": Row(
        "PATCH", _of("tenants", TENANT), _body(name="renamed"), object_id=lambda things: things.world.tenant.id
    ),
    "tenant_move": Row(
        "POST",
        _of("tenants", lambda things: things.child, "/actions/move"),
        _body(parent="acme"),
        object_id=lambda things: things.child.id,
    ),
    "tenant_delete": Row(
        "DELETE", _of("tenants", lambda things: things.child), object_id=lambda things: things.child.id
    ),
    "member_list": Row("GET", _at("members"), operator_query=_MINE),
    "member_create": Row(
        "POST",
        _at("members"),
        lambda things: {"user": things.world.foreign.user.username, "role": "viewer"},  # type: ignore[union-attr]
        operator_body={"tenant": "acme"},
    ),
    "member_show": Row(
        "GET",
        _of("members", lambda things: things.carol),
        object_id=lambda things: things.carol.id,
        operator_query=_MINE,
    ),
    "member_update": Row(
        "PATCH",
        _of("members", lambda things: things.carol),
        _body(role="operator"),
        object_id=lambda things: things.carol.id,
        operator_query=_MINE,
    ),
    "member_delete": Row(
        "DELETE",
        _of("members", lambda things: things.carol),
        object_id=lambda things: things.carol.id,
        operator_query=_MINE,
    ),
    "token_list": Row("GET", _at("tokens")),
    "token_create": Row("POST", _at("tokens"), _body(name="ci", scope="read")),
    "token_show": Row(
        "GET",
        _of("tokens", lambda things: things.token),
        object_id=lambda things: things.token.id,
        operator_query=_MINE,
    ),
    "token_delete": Row(
        "DELETE",
        _of("tokens", lambda things: things.token),
        object_id=lambda things: things.token.id,
        operator_query=_MINE,
    ),
    "quota_list": Row("GET", _at("quotas"), operator_query=_MINE),
    "quota_update": Row("PATCH", _at("quotas"), _body(limits={"instances": 9}), from_above=True, operator_query=_MINE),
    "user_list": Row("GET", _at("users")),
    "user_create": Row("POST", _at("users"), _body(username="dave")),
    "user_show": Row("GET", _of("users", lambda things: things.carol)),
    "user_update": Row("PATCH", _of("users", lambda things: things.carol), _body(email="c@example.org")),
    "pool_list": Row("GET", _at("pools")),
    "pool_create": Row("POST", _at("pools"), _body(name="second", cidr="10.9.0.0/20")),
    "pool_show": Row("GET", _at("pools/lab")),
    "pool_capacity": Row("GET", _at("pools/lab/capacity")),
    "pool_losses": Row("GET", _at("pools/lab/losses")),
    "pool_update": Row("PATCH", _at("pools/lab"), _body(vcpu_ratio=2)),
    "host_list": Row("GET", _at("hosts")),
    "host_create_join_token": Row("POST", _at("hosts/join-tokens"), _body(pool="lab")),
    "host_show": Row("GET", _of("hosts", lambda things: things.world.host)),
    "host_shares": Row("GET", _of("hosts", lambda things: things.world.host, "/shares")),
    "host_update": Row("PATCH", _of("hosts", lambda things: things.world.host), _body(failure_domain="rack-1")),
    "host_delete": Row("DELETE", _of("hosts", lambda things: things.spare_host)),
    "host_enable": Row("POST", _of("hosts", lambda things: things.spare_host, "/actions/enable"), _body()),
    "host_disable": Row("POST", _of("hosts", lambda things: things.world.host, "/actions/disable"), _body()),
    "host_prove": Row("POST", _of("hosts", lambda things: things.world.host, "/actions/prove"), _body()),
    "host_loss": Row("GET", _of("hosts", lambda things: things.world.host, "/loss")),
    "host_fence": Row(
        "POST", _of("hosts", lambda things: things.down_host, "/actions/fence"), _body(statement="I pulled its plug")
    ),
    "host_evacuate": Row("POST", _of("hosts", lambda things: things.fenced_host, "/actions/evacuate"), _body()),
    "host_return": Row("POST", _of("hosts", lambda things: things.heard_host, "/actions/return"), _body()),
    "flavor_list": Row("GET", _at("flavors")),
    "flavor_create": Row("POST", _at("flavors"), _body(name="huge", vcpus=2, memory_mib=512, disk_gib=2)),
    "flavor_show": Row("GET", _at("flavors/nano")),
    "image_list": Row("GET", _at("images")),
    "image_show": Row("GET", _at("images/tiny")),
    "group_list": Row("GET", _at("groups")),
    "group_create": Row(
        "POST", _at("groups"), _body(name="second", rule="anti_affinity"), operator_body={"tenant": "acme"}
    ),
    "group_show": Row("GET", _of("groups", lambda things: things.group), object_id=lambda things: things.group.id),
    "group_delete": Row("DELETE", _of("groups", lambda things: things.group), object_id=lambda things: things.group.id),
    "keypair_list": Row("GET", _at("keypairs")),
    "keypair_create": Row(
        "POST", _at("keypairs"), _body(name="second", public_key=KEY), operator_body={"tenant": "acme"}
    ),
    "keypair_show": Row(
        "GET", _of("keypairs", lambda things: things.keypair), object_id=lambda things: things.keypair.id
    ),
    "keypair_delete": Row(
        "DELETE", _of("keypairs", lambda things: things.keypair), object_id=lambda things: things.keypair.id
    ),
    "instance_list": Row("GET", _at("instances")),
    "instance_create": Row(
        "POST", _at("instances"), lambda things: things.world.order(name="new"), operator_body={"tenant": "acme"}
    ),
    "instance_show": Row("GET", _of("instances", INSTANCE), object_id=_instance_id),
    "instance_delete": Row("DELETE", _of("instances", INSTANCE), object_id=_instance_id),
    "instance_start": Row("POST", _of("instances", INSTANCE, "/actions/start"), _body(), object_id=_instance_id),
    "instance_stop": Row(
        "POST", _of("instances", INSTANCE, "/actions/stop"), _body(force=True), object_id=_instance_id
    ),
    "instance_reboot": Row("POST", _of("instances", INSTANCE, "/actions/reboot"), _body(), object_id=_instance_id),
    "instance_resize": Row(
        "POST", _of("instances", INSTANCE, "/actions/resize"), _body(flavor="big"), object_id=_instance_id
    ),
    "instance_contract": Row(
        "POST", _of("instances", INSTANCE, "/actions/contract"), _body(disruption="restart"), object_id=_instance_id
    ),
    "instance_lease": Row(
        "POST",
        _of("instances", INSTANCE, "/actions/lease"),
        _body(lease={"seconds": 3600, "action": "delete"}),
        object_id=_instance_id,
    ),
    "instance_prioritize": Row("POST", _of("instances", INSTANCE, "/actions/prioritize"), _body(priority=90)),
    "instance_console_log": Row("GET", _of("instances", INSTANCE, "/console-log"), object_id=_instance_id),
    "instance_decision": Row("GET", _of("instances", INSTANCE, "/decision"), object_id=_instance_id),
    "instance_migrate": Row(
        "POST",
        _of("instances", lambda things: things.runner, "/actions/migrate"),
        _body(),
        object_id=lambda things: things.runner.id,
    ),
    "instance_move": Row(
        "POST",
        _of("instances", lambda things: things.runner, "/actions/move"),
        _body(stop=True),
        object_id=lambda things: things.runner.id,
    ),
    "migration_list": Row("GET", _at("migrations")),
    "migration_show": Row("GET", _of("migrations", lambda things: things.migration)),
    "plan_list": Row("GET", _at("plans")),
    "plan_show": Row("GET", _of("plans", lambda things: things.plan)),
    "plan_apply": Row("POST", _of("plans", lambda things: things.plan, "/actions/apply"), _body()),
    "plan_pause": Row("POST", _of("plans", lambda things: things.running_plan, "/actions/pause"), _body()),
    "plan_resume": Row("POST", _of("plans", lambda things: things.paused_plan, "/actions/resume"), _body()),
    "plan_abort": Row("POST", _of("plans", lambda things: things.running_plan, "/actions/abort"), _body()),
    "host_drain": Row("POST", _of("hosts", lambda things: things.spare_host, "/actions/drain"), _body()),
    "operation_list": Row("GET", _at("operations")),
    "operation_show": Row(
        "GET", _of("operations", lambda things: things.operation), object_id=lambda things: things.operation.id
    ),
    "operation_cancel": Row(
        "POST",
        _of("operations", lambda things: things.stuck, "/cancel"),
        _body(),
        object_id=lambda things: things.stuck.id,
    ),
    "operation_retry": Row(
        "POST",
        _of("operations", lambda things: things.stuck, "/retry"),
        _body(),
        object_id=lambda things: things.stuck.id,
    ),
    "decision_list": Row("GET", _at("decisions")),
    "decision_show": Row(
        "GET", _of("decisions", lambda things: things.decision), object_id=lambda things: things.decision.id
    ),
    "decision_hosts": Row(
        "GET",
        _of("decisions", lambda things: things.decision, "/hosts"),
        object_id=lambda things: things.decision.id,
    ),
    "usage_show": Row("GET", _at("usage")),
    "usage_showback": Row("GET", _at("usage/showback")),
    "grant_list": Row("GET", _at("grants")),
    "grant_create": Row(
        "POST",
        _at("grants"),
        _body(tenant="sibling", pool="lab", units=0),
    ),
    "grant_show": Row("GET", _of("grants", GRANT), object_id=lambda things: things.grant.id),
    "grant_update": Row(
        "PATCH",
        _of("grants", GRANT),
        _body(limits={"vcpus": 4}),
        object_id=lambda things: things.grant.id,
    ),
    "grant_delete": Row("DELETE", _of("grants", GRANT), object_id=lambda things: things.grant.id),
    "alarm_list": Row("GET", _at("alarms")),
    "usage_shares": Row("GET", _at("usage/shares"), operator_query="tenant=acme"),
    "price_list": Row("GET", _at("prices")),
    "price_create": Row("POST", _at("prices"), _body(resource="vcpu", per_hour="0.01", currency="EUR")),
    "price_delete": Row("DELETE", _of("prices", lambda things: things.price)),
    "audit_list": Row("GET", _at("audit")),
}
