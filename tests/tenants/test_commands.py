"""management/commands: user_create and tenant_list."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from tenants.models import Membership, User
from tests.factories.tenants import PASSWORD, make_tenant, make_user, use

pytestmark = pytest.mark.django_db


@pytest.fixture
def typed(monkeypatch):
    """Let the command read this password from standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))


def test_user_create_makes_an_operator_with_the_password_given(typed):
    call_command("user_create", "root", "--operator", stdout=io.StringIO())
    user = User.objects.get(username="root")
    assert user.is_operator
    assert user.check_password(PASSWORD)


def test_user_create_gives_a_role(typed):
    make_tenant("dev", parent=make_tenant("acme"))
    call_command("user_create", "ada", "--tenant", "acme/dev", "--role", "admin", stdout=io.StringIO())
    membership = Membership.unscoped.get(user__username="ada")
    assert (membership.role, membership.tenant.name) == ("admin", "dev")


def test_user_create_that_fails_leaves_nothing(typed):
    with pytest.raises(CommandError, match="not_found"):
        call_command("user_create", "ada", "--tenant", "nowhere", stdout=io.StringIO())
    assert not User.objects.exists()
    make_user("bob")
    with pytest.raises(CommandError, match="name_taken"):
        call_command("user_create", "bob", "--no-password", stdout=io.StringIO())


def test_tenant_list_prints_the_tree_with_use():
    acme = make_tenant("acme", limits={"instances": 5})
    use(make_tenant("dev", parent=acme), instances=2)
    out = io.StringIO()
    call_command("tenant_list", stdout=out)
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert [line[:3] for line in lines[1:]] == [["acme", "active", "2/5"], ["acme/dev", "active", "2/-"]]
