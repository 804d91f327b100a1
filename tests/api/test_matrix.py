"""Every route, as every role, as a stranger, with a read-only token and without any."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from cloud.api.routes import Route
from cloud.api.v1.urls import urlpatterns
from compute.models import (
    Decision,
    Domain,
    Fence,
    Group,
    Host,
    Instance,
    Keypair,
    Migration,
    Operation,
    Plan,
    Pool,
    Price,
)
from compute.services.drain_draft import DrainOptions
from compute.services.grants import Terms, create_grant
from compute.services.plans import propose_drain
from compute.wire import MigrationJob
from tenants import roles
from tenants.models import ApiToken, AuditEvent, Membership, Quota, Tenant, User
from tests.api.conftest import ROLES, Caller, World, build_world, undone
from tests.api.matrix import KEY, ROWS, Row, Things
from tests.factories.compute import make_flavor, make_host
from tests.factories.tenants import SYSTEM, make_member, make_tenant, make_token, make_user

pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class Declared:
    where: str
    method: str
    route: Route | None


def declared() -> list[Declared]:
    """Every method of every address in the URL table."""
    found = []
    for pattern in urlpatterns:
        view: Any = pattern.callback
        door, actions = view.cls, view.actions
        for method, action in actions.items():
            if method == "head":  # the framework's twin of every GET
                continue
            found.append(Declared(str(pattern.pattern), method.upper(), getattr(getattr(door, action), "route", None)))
    return found


ROUTES = {item.route.name: item.route for item in declared() if item.route is not None}


def test_every_address_declares_a_route_with_a_known_permission() -> None:
    for item in declared():
        assert item.route is not None, f"{item.method} {item.where} was not declared with @route"
        permission = item.route.permission
        assert permission is None or permission in roles.ALL_PERMISSIONS, (item.where, permission)
    assert [name for name, route in ROUTES.items() if route.permission is None] == ["me_show"]


def test_every_route_has_its_row_and_every_row_its_route() -> None:
    names = [item.route.name for item in declared() if item.route is not None]
    assert len(names) == len(set(names)), "two routes of one name"
    assert set(names) == set(ROWS)
    by_name = {item.route.name: item.method for item in declared() if item.route is not None}
    assert {name: row.method for name, row in ROWS.items()} == by_name


def _fenced(world: World) -> Host:
    host = make_host(world.pool, observed_state="fenced")
    Fence.objects.create(host=host, driver="operator", state="proved", evidence="off", ended_at=timezone.now())
    return host


def _heard(world: World) -> Host:
    """A fenced host that speaks again, and goes on doing so however long the tests take."""
    host = make_host(world.pool, observed_state="fenced")
    host.last_seen_at = timezone.now() + timedelta(hours=1)
    host.save(update_fields=["last_seen_at"])
    return host


def _runner(world: World) -> Instance:
    """A VM that runs, and a host that it could go to."""
    created = world.owner.ok("POST", "instances", world.order(name="runner"), status=202)
    Operation.objects.filter(state="pending").update(state="succeeded", finished_at="2026-01-01T00:00:00Z")
    rows = Instance.unscoped.filter(id=created["instance"]["id"])
    rows.update(state="active")
    instance: Instance = rows.get()
    now = timezone.now()
    Domain.objects.create(instance=instance, host=world.host, power="running", since=now, observed_at=now)
    make_host(world.pool)
    Host.objects.update(facts={"shared_storage_id": "one"})
    Pool.objects.update(shared_storage_id="one")
    return instance


def build_things() -> Things:
    world = build_world()
    created = world.owner.ok("POST", "instances", world.order(), status=202)
    Operation.objects.update(state="succeeded", finished_at="2026-01-01T00:00:00Z")
    # Stopped, since some verbs are for a stopped instance alone and none is for a running one.
    Instance.unscoped.update(state="active", desired_power="stopped")
    instance = Instance.unscoped.get(id=created["instance"]["id"])
    Domain.objects.create(
        instance=instance, host=world.host, power="stopped", since=timezone.now(), observed_at=timezone.now()
    )
    make_flavor("big", vcpus=2)
    world.owner.ok("POST", "keypairs", {"name": "laptop", "public_key": KEY}, status=201)
    world.owner.ok("POST", "groups", {"name": "web", "rule": "anti_affinity"}, status=201)
    operation = Operation.objects.get()
    stuck = Operation.objects.create(
        tenant=world.tenant,
        kind="instance_stop",
        target_type="instance",
        target_id=uuid.uuid4(),
        target_name="old",
        state="stuck",
        actor="x",
        next_attempt_at="2026-01-01T00:00:00Z",
        deadline_at="2026-01-01T00:00:00Z",
    )
    carol = make_user("carol")
    make_member(world.tenant, "viewer", carol)
    make_token(carol, world.tenant)
    child, _ = make_tenant("child", parent=world.tenant), make_tenant("sibling", parent=world.tenant)
    create_grant(actor=SYSTEM, tenant=world.tenant, pool=world.pool, flavor=world.flavor, terms=Terms())
    decision = Decision.unscoped.get()
    return Things(
        world=world,
        instance=instance,
        runner=_runner(world),
        operation=operation,
        stuck=stuck,
        decision=decision,
        keypair=Keypair.unscoped.get(),
        group=Group.unscoped.get(),
        child=child,
        carol=carol,
        token=ApiToken.unscoped.get(user=carol),
        spare_host=make_host(world.pool, admin_state="disabled"),
        down_host=_silent(world),
        fenced_host=_fenced(world),
        heard_host=_heard(world),
        price=Price.objects.create(
            resource="disk_gib", per_hour="0.001", currency="EUR", valid_from="2026-01-01T00:00:00Z", set_by="x"
        ),
        grant=create_grant(actor=SYSTEM, tenant=child, pool=world.pool, flavor=None, terms=Terms()),
        migration=Migration.objects.create(
            instance=instance,
            source=world.host,
            destination=make_host(world.pool, admin_state="disabled"),
            operation=operation,
            state="aborted",
            job=MigrationJob("job", "10.97.0.2").to_json(),
            actor="ops",
        ),
        plan=_plan(world, "proposed"),
        running_plan=_plan(world, "running"),
        paused_plan=_plan(world, "paused"),
    )


def _silent(world: World) -> Host:
    host = make_host(world.pool, observed_state="down")
    Host.objects.filter(id=host.id).update(last_seen_at="2026-01-01T00:00:00Z")
    return host


def _plan(world: World, state: str) -> Plan:
    """A drain of an empty host."""
    host = make_host(world.pool, admin_state="enabled" if state == "proposed" else "draining")
    plan = propose_drain(actor=SYSTEM, host_id=host.id, options=DrainOptions()) if state == "proposed" else None
    return plan or Plan.objects.create(
        kind="drain",
        pool=world.pool,
        host=host,
        state=state,
        options={"stop": False, "consent": [], "accept_losses": False, "reason": "", "admin_state": "enabled"},
        fingerprint="0" * 64,
        actor="ops",
        expires_at=timezone.now(),
    )


@pytest.fixture(scope="module")
def built(django_db_setup: None, django_db_blocker: Any) -> Iterator[Things]:
    """Built once: every test undoes what it did."""
    with django_db_blocker.unblock(), override_settings(ROOT_URLCONF="tests.api.urls"), undone():
        yield build_things()


@pytest.fixture
def things(built: Things, db: None) -> Things:
    return built


def books() -> Any:
    """Everything that a refused request must not change."""
    tables: dict[Any, list[str]] = {
        Instance.unscoped: ["id", "state", "version", "name", "tenant_id"],
        Operation.objects: ["id", "state", "cancel_requested"],
        Tenant.objects: ["id", "name", "state"],
        Membership.unscoped: ["id", "role"],
        Quota.unscoped: ["id", "limit", "used"],
        ApiToken.unscoped: ["id", "revoked_at"],
        Keypair.unscoped: ["id"],
        User.objects: ["id", "email", "is_operator", "is_active"],
        Host.objects: ["id", "admin_state", "version", "used_vcpus"],
        AuditEvent.unscoped: ["id"],
        Domain.objects: ["id"],
        Price.objects: ["id", "valid_until"],
        Plan.objects: ["id", "state"],
    }
    return {
        manager.model.__name__: sorted(map(str, manager.values_list(*columns))) for manager, columns in tables.items()
    }


def send(
    caller: Caller, row: Row, things: Things, *, as_operator: bool = False, replace: tuple[str, str] | None = None
) -> Any:
    path, body = row.path(things), row.body(things)
    if as_operator and row.operator_query:
        path += "?" + row.operator_query
    if as_operator and row.operator_body:
        body = {**body, **row.operator_body}
    if replace is not None:
        path = path.replace(*replace)
    return caller(row.method, path, body)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_roles(name: str, things: Things) -> None:
    row, route, world = ROWS[name], ROUTES[name], things.world
    before = books()
    for role in ROLES:
        allowed = route.permission is None or roles.allows(role, route.permission)
        if route.permission in roles.CATALOGUE:
            allowed = True
        if row.from_above:
            allowed = False
        # Own tokens are everybody's affair, others' are the administrators': to the rest they are not there.
        hidden = name in ("token_show", "token_delete") and not roles.allows(role, "token.manage")
        with undone():
            response = send(world.mine[role], row, things)
            wanted = 404 if hidden else route.status if allowed else 403
            assert response.status_code == wanted, (role, response.status_code, response.content.decode())
            if wanted in (403, 404):
                assert books() == before, f"{role} was refused and yet changed something"
                assert response["Content-Type"] == "application/problem+json"
                assert response.json()["code"] == ("not_found" if hidden else "permission_denied")


@pytest.mark.parametrize("name", sorted(ROWS))
def test_operators_of_the_cloud_may_everything(name: str, things: Things) -> None:
    with undone():
        response = send(things.world.operator, ROWS[name], things, as_operator=True)
        assert response.status_code == ROUTES[name].status, response.content.decode()


@pytest.mark.parametrize("name", sorted(ROWS))
def test_without_a_token_and_with_a_reading_one(name: str, things: Things) -> None:
    row, route, world = ROWS[name], ROUTES[name], things.world
    before = books()
    response = send(Caller(""), row, things)
    assert response.status_code == 401
    assert response.json()["code"] in ("not_authenticated", "token_invalid")
    assert "Bearer" in response["WWW-Authenticate"]
    assert books() == before
    assert world.owner.user is not None
    reader = Caller(make_token(world.owner.user, world.tenant, scope="read"))
    before = books()
    with undone():
        response = send(reader, row, things)
        may = route.permission is None or (
            route.permission in roles.READ_PERMISSIONS and roles.allows("owner", route.permission)
        )
        # To see others' tokens is to manage them, which a reading token does not.
        wanted = 404 if name == "token_show" else route.status if may else 403
        assert response.status_code == wanted, response.content.decode()
        if not may:
            assert books() == before


@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row.object_id is not None))
def test_another_tenants_object_is_told_from_none_by_nothing(name: str, things: Things) -> None:
    row, world = ROWS[name], things.world
    assert row.object_id is not None
    real, made_up = str(row.object_id(things)), str(uuid.uuid4())
    before = books()
    foreign = send(world.foreign, row, things)
    absent = send(world.foreign, row, things, replace=(real, made_up))
    assert foreign.status_code == absent.status_code == 404, foreign.content.decode()
    assert _faceless(foreign, real) == _faceless(absent, made_up)
    assert books() == before


@pytest.mark.parametrize(
    "name", sorted(name for name, row in ROWS.items() if row.method == "GET" and row.object_id is None)
)
def test_lists_show_strangers_nothing(name: str, things: Things) -> None:
    shown = send(things.world.foreign, ROWS[name], things)
    if shown.status_code == 200:
        text = shown.content.decode()
        secret: list[Any] = [
            things.instance.id,
            things.operation.id,
            things.decision.id,
            things.keypair.id,
            things.group.id,
            things.carol.id,
        ]
        secret += [
            things.world.tenant.id,
            things.child.id,
            things.token.id,
            things.world.host.id,
            things.world.host.name,
        ]
        assert [item for item in secret if str(item) in text] == []


@pytest.mark.parametrize("name", sorted(ROUTES))
def test_naming_another_tenant_is_told_from_naming_none_by_nothing(name: str, things: Things) -> None:
    row, route, world = ROWS[name], ROUTES[name], things.world
    fields = [("query", key) for key in (list(route.query().fields) if route.query else []) if key == "tenant"]
    fields += [
        ("body", key) for key in (list(route.body().fields) if route.body else []) if key in ("tenant", "parent")
    ]
    before = books()
    for place, key in fields:
        answers = []
        for tenant_id in (str(world.tenant.id), str(uuid.uuid4())):
            body = row.body(things)
            path = row.path(things)
            if place == "query":
                path += f"?{key}={tenant_id}"
            else:
                body = {**body, key: tenant_id}
            response = world.foreign(row.method, path, body)
            assert response.status_code in (400, 404), response.content.decode()
            answers.append(_faceless(response, tenant_id))
        assert answers[0] == answers[1]
    assert books() == before


def _faceless(response: Any, identifier: str) -> Any:
    body = json.loads(response.content.decode().replace(identifier, "ID"))
    body.pop("request_id")
    return body


def test_a_disabled_tenant_is_refused_at_once(things: Things) -> None:
    world: World = things.world
    world.operator.ok("PATCH", f"tenants/{world.tenant.id}", {"state": "disabled"})
    for method, path in (("GET", "instances"), ("GET", f"instances/{things.instance.id}"), ("POST", "instances")):
        response = world.owner(method, path, world.order() if method == "POST" else None)
        assert response.status_code == 403, (path, response.content.decode())
        assert response.json()["code"] == "tenant_disabled"


def test_a_disabled_user_and_a_lost_role_are_refused_at_once(things: Things) -> None:
    world: World = things.world
    viewer = world.mine["viewer"]
    assert viewer.user is not None
    viewer.ok("GET", "instances")
    world.owner.ok("DELETE", f"members/{viewer.user.username}", status=204)
    assert viewer("GET", "instances").status_code == 401
    admin = world.mine["admin"]
    assert admin.user is not None
    world.operator.ok("PATCH", f"users/{admin.user.id}", {"is_active": False})
    assert admin("GET", "instances").status_code == 401
