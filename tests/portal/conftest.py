"""People in front of the portal: one client for each role, a stranger, and a cloud operator."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from django.test import Client

from tenants.models import User
from tests.factories.tenants import make_member, make_tenant, make_user
from tests.sagas.conftest import Cloud, cloud

__all__ = ["cloud"]
BACKEND = "django.contrib.auth.backends.ModelBackend"


def client_of(user: User, *, enforce_csrf: bool = False) -> Client:
    client = Client(enforce_csrf_checks=enforce_csrf)
    client.force_login(user, backend=BACKEND)
    return client


@dataclass
class People:
    """Clients by who they are. `stranger` owns another tenant."""

    owner: Client
    admin: Client
    operator: Client
    viewer: Client
    stranger: Client
    cloud_operator: Client

    def named(self, name: str) -> Client:
        client: Client = getattr(self, name)
        return client


@pytest.fixture
def people(cloud: Cloud) -> People:
    clients = {}
    for role in ("owner", "admin", "operator", "viewer"):
        user = make_user(f"the-{role}")
        make_member(cloud.tenant, role, user)
        clients[role] = client_of(user)
    stranger = make_user("the-stranger")
    make_tenant(owner=stranger)
    clients["stranger"] = client_of(stranger)
    clients["cloud_operator"] = client_of(make_user("the-cloud-operator", is_operator=True))
    return People(**clients)
