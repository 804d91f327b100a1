"""services/audit.py: every change leaves its trace, in its own transaction, for ever."""

from __future__ import annotations

import inspect
import uuid
from importlib import import_module

import pytest
from django.db import DatabaseError, transaction

from tenants.models import AuditEvent, Tenant
from tenants.services import audit, members, moves, passwords, quotas, tenants, tokens, users
from tenants.services.access import Actor, actor_for_user
from tests.factories.tenants import PASSWORD, SYSTEM, make_member, make_tenant, make_user

pytestmark = pytest.mark.django_db

# Ledger moves are told of by the event of what they pay for; a token's use is not a change.
SILENT = {
    "charge",
    "charge_last",
    "charge_many",
    "release",
    "release_many",
    "ensure_rows",
    "authenticate_token",
    "check_password_rules",
    "transfer",
}
READS = {"summary", "plan_move", "exceeded"}


def changes():
    """(service, what it is called with): one working call of every service that changes something."""
    owner, user = make_user(), make_user(password=PASSWORD)
    root = make_tenant(owner=owner)
    spare_root, closing = make_tenant(), make_tenant()
    child, spare = make_tenant(parent=root), make_tenant(parent=root)
    leaver = make_member(root, "viewer").user
    token, _ = tokens.create_token(actor=SYSTEM, user=owner, tenant=root, name="old")
    make_user(is_operator=True)
    return [
        (tenants.create_tenant, {"name": "new"}),
        (tenants.rename_tenant, {"tenant": child, "name": "renamed"}),
        (tenants.set_tenant_state, {"tenant": child, "active": False}),
        (moves.move_tenant, {"tenant": make_tenant(), "parent": spare_root}),
        (tenants.begin_deletion, {"tenant": closing, "operation_id": uuid.uuid4()}),
        (tenants.abandon_deletion, {"tenant": closing, "state": "disabled"}),
        (tenants.delete_tenant, {"tenant": spare}),
        (members.add_member, {"tenant": root, "user": user, "role": "viewer"}),
        (members.change_role, {"tenant": root, "user": leaver, "role": "admin"}),
        (members.remove_member, {"tenant": root, "user": leaver}),
        (tokens.create_token, {"tenant": root, "user": owner, "name": "t"}),
        (tokens.revoke_token, {"token": token}),
        (quotas.set_limit, {"tenant": root, "resource": "vcpus", "limit": 7}),
        (quotas.set_limits, {"tenant": root, "limits": {"vcpus": 8}}),
        (quotas.apply_limits, {"tenant": root, "limits": {"vcpus": 9}}),
        (users.create_user, {"username": "fresh"}),
        (users.update_user, {"user": user, "email": "u@example.org"}),
        (passwords.set_password, {"user": user, "new_password": "another good one"}),
        (
            passwords.change_password,
            {
                "current_password": "another good one",
                "new_password": "yet another good one",
                "actor": actor_for_user(user=user, request_id="req-1"),
            },
        ),
    ]


def test_every_service_that_changes_something_leaves_its_trace():
    actor = Actor(username="tests", kind="system", is_operator=True, request_id="req-1")
    covered = set()
    for service, arguments in changes():
        before = set(AuditEvent.unscoped.values_list("id", flat=True))
        service(**{"actor": actor, **arguments})
        events = AuditEvent.unscoped.exclude(id__in=before)
        assert events, service.__name__
        assert {(event.request_id, event.target_id is None, event.at is None) for event in events} == {
            ("req-1", False, False)
        }
        covered.add(service.__name__)
    public = {
        name
        for module in ("members", "moves", "passwords", "quotas", "tenants", "tokens", "users")
        for name, function in inspect.getmembers(import_module(f"tenants.services.{module}"), inspect.isfunction)
        if function.__module__ == f"tenants.services.{module}" and not name.startswith("_")
    }
    assert public - covered - SILENT == READS


def test_event_says_who_did_what_to_what():
    user = make_user("ada")
    tenant = make_tenant("acme", owner=user)
    actor = actor_for_user(user=user, request_id="req-9")
    tenants.rename_tenant(actor=actor, tenant=tenant, name="acme2")
    event = AuditEvent.unscoped.get(action="tenant.update")
    assert (event.actor_kind, event.actor_user_id, event.actor_name) == ("user", user.id, "ada")
    assert (event.target_type, event.target_id, event.target_name) == ("tenant", tenant.id, "acme2")
    assert (event.before, event.after, event.tenant_id) == ({"name": "acme"}, {"name": "acme2"}, tenant.id)


def test_event_shares_the_fate_of_its_change():
    with transaction.atomic():
        make_tenant("doomed")
        transaction.set_rollback(True)
    assert not AuditEvent.unscoped.filter(target_name="doomed").exists()
    assert not Tenant.objects.filter(name="doomed").exists()


@pytest.mark.django_db(transaction=True)
def test_event_outside_a_transaction_is_refused():
    with pytest.raises(RuntimeError):
        audit.record(actor=SYSTEM, action="x.y", target=("thing", None, "x"))


@pytest.mark.parametrize("key", ["password", "new_Password", "token_text", "private_key", "user_data"])
def test_what_sounds_like_a_secret_is_refused(key):
    with pytest.raises(ValueError, match="secret"):
        audit.record(actor=SYSTEM, action="x.y", target=("thing", None, "x"), after={key: "x"})


def test_events_take_ids_times_and_things_that_are_no_rows():
    operation = uuid.uuid4()
    event = audit.record(
        actor=SYSTEM,
        action="pool.update",
        target=("pool", operation, "p"),
        operation_id=operation,
        after={"id": operation},
    )
    event.refresh_from_db()
    assert (event.after, event.operation_id, event.tenant_id) == ({"id": str(operation)}, operation, None)


def test_events_are_never_changed_or_deleted():
    make_tenant()
    events = AuditEvent.unscoped.all()
    for spoil in (lambda: events.update(actor_name="somebody else"), lambda: events.delete()):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            spoil()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        events[0].save()
