"""scope.py: rows of tenants are out of reach without a scope."""

from __future__ import annotations

import threading

import pytest

from tenants.models import ApiToken, AuditEvent, Membership, Quota
from tenants.scope import ALL, ScopeError, current_scope, tenant_scope
from tests.factories.tenants import make_tenant

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("model", [Quota, Membership, ApiToken, AuditEvent])
def test_reading_outside_a_scope_raises(model):
    with pytest.raises(ScopeError):
        model.objects.all()
    with pytest.raises(ScopeError):
        model.objects.filter(pk=None)
    model.unscoped.count()


def test_a_scope_shows_its_tenants_only():
    one, two = make_tenant(), make_tenant()
    with tenant_scope({one.id}):
        assert {row.tenant_id for row in Quota.objects.all()} == {one.id}
        assert not Quota.objects.filter(tenant=two).exists()
    with tenant_scope(()):
        assert not Quota.objects.exists()
    with tenant_scope(ALL):
        assert {row.tenant_id for row in Quota.objects.all()} == {one.id, two.id}


def test_a_scope_cannot_be_widened_from_within():
    one, two = make_tenant(), make_tenant()
    with tenant_scope({one.id}):
        for wider in ({one.id, two.id}, {two.id}, ALL):
            with pytest.raises(ScopeError), tenant_scope(wider):
                pass
        with tenant_scope(()):
            assert current_scope() == frozenset()
        assert current_scope() == {one.id}


def test_a_scope_ends_with_its_block_even_on_error():
    with pytest.raises(ZeroDivisionError), tenant_scope(ALL):
        1 / 0  # noqa: B018
    with pytest.raises(ScopeError):
        current_scope()


def test_a_new_thread_starts_without_a_scope():
    seen = []

    def look():
        try:
            seen.append(current_scope())
        except ScopeError as error:
            seen.append(error)

    with tenant_scope(ALL):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert isinstance(seen[0], ScopeError)


def test_rows_in_hand_can_be_followed_saved_and_deleted_outside_a_scope():
    tenant = make_tenant()
    row = Quota.unscoped.select_related(None).filter(tenant=tenant, resource="vcpus").get()
    assert row.tenant.name == tenant.name
    row.save(update_fields=["updated_at"])
    row.refresh_from_db()
    row.delete()
    assert not Quota.unscoped.filter(tenant=tenant, resource="vcpus").exists()
