"""Leases as they are given and changed: how long, by whom, and what the trail tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from compute.errors import InvalidState
from compute.models import Instance
from compute.services.instances_create import create_instances
from compute.services.instances_delete import delete_instance
from compute.services.instances_forecast import forecast_instances
from compute.services.lease_terms import LEAST_SECONDS, MOST_SECONDS, LeaseAsk
from compute.services.leases import change_lease
from tenants.errors import InvalidInput, PermissionDenied, VersionMismatch
from tenants.models import AuditEvent, Tenant
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_actor, make_tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def tenant() -> Tenant:
    make_host(make_pool())
    make_flavor("small")
    make_image("tiny")
    return make_tenant("acme")


def _create(tenant: Tenant, lease: LeaseAsk | None = None, count: int = 1) -> Instance:
    created = create_instances(
        actor=make_actor("operator", tenant),
        tenant=tenant,
        name="web",
        flavor="small",
        image="tiny",
        lease=lease,
        count=count,
    )
    return created.instances[0]


def _left(instance: Instance) -> float:
    """Seconds until the lease that is kept ends."""
    kept = Instance.unscoped.get(id=instance.id).lease_ends_at
    assert kept is not None
    return float((kept - timezone.now()).total_seconds())


@pytest.mark.django_db(transaction=True)
def test_all_of_a_batch_have_the_lease_that_was_asked_for(tenant: Tenant) -> None:
    instance = _create(tenant, LeaseAsk(seconds=3600, action="delete"), count=2)
    assert 3590 < _left(instance) <= 3600
    assert set(Instance.unscoped.values_list("lease_action", flat=True)) == {"delete"}
    assert len(set(Instance.unscoped.values_list("lease_ends_at", flat=True))) == 1
    event = AuditEvent.unscoped.get(action="instance.create", target_id=instance.id)
    assert event.after["lease"]["action"] == "delete"


@pytest.mark.django_db(transaction=True)
def test_without_a_lease_it_may_stay_for_ever(tenant: Tenant) -> None:
    instance = _create(tenant)
    assert Instance.unscoped.values_list("lease_ends_at", "lease_action").get(id=instance.id) == (None, "")
    assert "lease" not in AuditEvent.unscoped.get(action="instance.create").after


@pytest.mark.django_db(transaction=True)
def test_a_lease_is_renewed_shortened_and_taken_away_and_the_trail_tells(tenant: Tenant) -> None:
    actor = make_actor("operator", tenant)
    instance = _create(tenant, LeaseAsk(seconds=3600, action="delete"))
    change_lease(actor=actor, instance_id=instance.id, lease=LeaseAsk(seconds=7200))
    assert 7190 < _left(instance) <= 7200
    assert Instance.unscoped.get(id=instance.id).lease_action == "delete", "what was not told stays"
    at = timezone.now() + timedelta(days=1)
    change_lease(actor=actor, instance_id=instance.id, lease=LeaseAsk(ends_at=at, action="stop"))
    kept = Instance.unscoped.get(id=instance.id)
    assert (kept.lease_ends_at, kept.lease_action, kept.version) == (at, "stop", 3)
    change_lease(actor=actor, instance_id=instance.id, lease=None)
    change_lease(actor=actor, instance_id=instance.id, lease=None)
    kept = Instance.unscoped.get(id=instance.id)
    assert (kept.lease_ends_at, kept.lease_action, kept.version) == (None, "", 4), "nothing changed the second time"
    events = AuditEvent.unscoped.filter(action="instance.lease").order_by("id")
    assert [event.after["lease"] and event.after["lease"]["action"] for event in events] == ["delete", "stop", None]
    assert [event.before["lease"]["action"] for event in events] == ["delete", "delete", "stop"]


@pytest.mark.django_db(transaction=True)
def test_a_first_lease_stops_unless_told_otherwise(tenant: Tenant) -> None:
    instance = _create(tenant)
    change_lease(actor=SYSTEM, instance_id=instance.id, lease=LeaseAsk(seconds=60))
    assert Instance.unscoped.get(id=instance.id).lease_action == "stop"


@pytest.mark.parametrize(
    ("lease", "pointer"),
    [
        (LeaseAsk(), "/lease"),
        (LeaseAsk(seconds=60, ends_at=datetime(2050, 1, 1, tzinfo=UTC)), "/lease"),
        (LeaseAsk(seconds=LEAST_SECONDS - 1), "/lease/seconds"),
        (LeaseAsk(seconds=MOST_SECONDS + 1), "/lease/seconds"),
        (LeaseAsk(seconds=2**53), "/lease/seconds"),
        (LeaseAsk(ends_at=datetime(2020, 1, 1, tzinfo=UTC)), "/lease/ends_at"),
        (LeaseAsk(ends_at=datetime(9999, 1, 1, tzinfo=UTC)), "/lease/ends_at"),
        (LeaseAsk(seconds=60, action="explode"), "/lease/action"),
    ],
)
def test_what_is_no_lease_is_told_by_its_field(tenant: Tenant, lease: LeaseAsk, pointer: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        _create(tenant, lease)
    assert refused.value.errors[0]["pointer"] == pointer
    with pytest.raises(InvalidInput):
        forecast_instances(actor=SYSTEM, tenant=tenant, name="web", flavor="small", image="tiny", lease=lease)
    assert not Instance.unscoped.exists()


@pytest.mark.django_db(transaction=True)
def test_nobody_sets_a_lease_that_may_not_delete(tenant: Tenant) -> None:
    instance = _create(tenant)
    with pytest.raises(PermissionDenied):
        change_lease(actor=make_actor("viewer", tenant), instance_id=instance.id, lease=LeaseAsk(seconds=60))
    assert Instance.unscoped.get(id=instance.id).lease_ends_at is None


@pytest.mark.django_db(transaction=True)
def test_no_lease_keeps_what_is_being_deleted(tenant: Tenant) -> None:
    instance = _create(tenant)
    with pytest.raises(VersionMismatch):
        change_lease(actor=SYSTEM, instance_id=instance.id, lease=LeaseAsk(seconds=60), if_version=7)
    delete_instance(actor=SYSTEM, instance_id=instance.id)
    with pytest.raises(InvalidState, match="being deleted"):
        change_lease(actor=SYSTEM, instance_id=instance.id, lease=LeaseAsk(seconds=60))


@pytest.mark.django_db(transaction=True)
def test_the_database_refuses_half_a_lease(tenant: Tenant) -> None:
    instance = _create(tenant)
    for values in ({"lease_action": "stop"}, {"lease_ends_at": timezone.now()}):
        with pytest.raises(IntegrityError, match="instance_lease_whole"), transaction.atomic():
            Instance.unscoped.filter(id=instance.id).update(**values)


@pytest.mark.django_db(transaction=True)
def test_a_release_that_knows_no_leases_can_still_write_instances(tenant: Tenant) -> None:
    columns = [field.column for field in Instance._meta.concrete_fields if not field.column.startswith("lease_")]
    names = ", ".join(f'"{column}"' for column in columns)
    instance = _create(tenant)
    with connection.cursor() as cursor:
        copied = names.replace('"id"', "gen_random_uuid()")
        cursor.execute(" ".join(("INSERT INTO compute_instance (", names, ") SELECT", copied, "FROM compute_instance")))
    other = Instance.unscoped.exclude(id=instance.id).get()
    assert (other.lease_ends_at, other.lease_action) == (None, "")
