"""A small cloud with two tenants, and callers of the API with every role."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from compute.models import Flavor, Host, Image, Pool
from tenants.models import Tenant, User
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import make_member, make_tenant, make_token, make_user

ROLES = ("owner", "admin", "operator", "viewer")


@dataclass(frozen=True)
class Caller:
    """One token; calls return Django's response."""

    token: str
    user: User | None = None

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        known = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        known |= {name.replace("_", "-"): value for name, value in headers.items()}
        client = Client(headers=known, raise_request_exception=False)
        data: Any = {} if body is None else {"data": body if isinstance(body, bytes | str) else json.dumps(body)}
        return client.generic(
            method, path if path.startswith("/") else f"/api/v1/{path}", content_type="application/json", **data
        )

    def ok(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """The JSON of an answer that has to have this status."""
        response = self(method, path, body, **headers)
        assert response.status_code == status, (response.status_code, response.content.decode())
        return response.json() if response.content else None


@dataclass(frozen=True)
class World:
    """A pool with one host, a flavor, an image, two tenants. `mine[role]` calls with that role in `tenant`."""

    pool: Pool
    host: Host
    flavor: Flavor
    image: Image
    tenant: Tenant
    other: Tenant
    mine: dict[str, Caller]
    foreign: Caller
    operator: Caller

    @property
    def owner(self) -> Caller:
        return self.mine["owner"]

    def order(self, **fields: Any) -> dict[str, Any]:
        """The body of a create."""
        return {"name": "web", "flavor": self.flavor.name, "image": self.image.name, **fields}


@pytest.fixture(autouse=True)
def api_alone(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.api.urls"


@contextmanager
def undone() -> Iterator[None]:
    """Whatever happens inside is rolled back; services that insist on a transaction of their own are let in."""
    atom = transaction.atomic()
    atom._from_testcase = True  # type: ignore[attr-defined]
    with atom:
        yield
        transaction.set_rollback(True)


@pytest.fixture(scope="module")
def built_world(django_db_setup: None, django_db_blocker: Any) -> Iterator[World]:
    """Built once in a module; each test undoes what it did. Tests with real commits build their own, in modules of their own."""
    with django_db_blocker.unblock(), undone():
        yield build_world()


@pytest.fixture
def world(built_world: World, db: None) -> World:
    return built_world


def build_world() -> World:
    pool = make_pool("lab")
    tenant, other = make_tenant("acme"), make_tenant("rival")
    return World(
        pool=pool,
        host=make_host(pool),
        flavor=make_flavor("nano"),
        image=make_image("tiny"),
        tenant=tenant,
        other=other,
        mine={role: _caller(tenant, role) for role in ROLES},
        foreign=_caller(other, "owner"),
        operator=_operator(),
    )


def _caller(tenant: Tenant, role: str) -> Caller:
    user = make_member(tenant, role, make_user()).user
    return Caller(make_token(user, tenant), user)


def _operator() -> Caller:
    user = make_user(is_operator=True)
    return Caller(make_token(user, None), user)


CallerMaker = Callable[[Tenant, str], Caller]


@pytest.fixture
def caller_for() -> CallerMaker:
    return _caller
