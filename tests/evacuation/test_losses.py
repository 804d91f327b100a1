"""The standing list: which guests would not come back were their host lost now; for all hosts of a pool at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from compute.models import Allocation, Host, Instance
from compute.services.groups import create_group
from compute.services.loss_forecast import foresee_loss, foresee_losses
from tests.evacuation.conftest import LossyPool
from tests.factories.compute import make_flavor


def staying(cloud: LossyPool) -> dict[str, list[tuple[str, str]]]:
    """Host -> its guests that would stay, with the reason's code."""
    found = foresee_losses(actor=cloud.operator, pool=cloud.pool)
    return {loss.host.name: [(fate.instance.name, fate.code) for fate in loss.staying] for loss in found.worst}


def test_with_room_enough_all_would_come_back(cloud: LossyPool) -> None:
    for number in range(3):
        cloud.create(f"web-{number}")
    found = foresee_losses(actor=cloud.operator, pool=cloud.pool)
    assert (found.hosts, found.guests, found.staying, found.worst) == (3, 3, 0, ())


def test_it_says_what_the_look_at_each_host_says(cloud: LossyPool) -> None:
    make_flavor("large", vcpus=5, memory_mib=5000, disk_gib=1)
    cloud.create("web")
    cloud.create("large", flavor="large")
    Host.objects.exclude(name="lost").update(reserved_memory_mib=6000)
    assert staying(cloud) == {"lost": [("large", "no_valid_host")]}
    _, fates = foresee_loss(actor=cloud.operator, reference="lost")
    assert [fate.instance.name for fate in fates if fate.host_id is None] == ["large"]


def test_disks_of_the_hosts_own_stay_with_it(cloud: LossyPool) -> None:
    cloud.create("web")
    Host.objects.filter(name="lost").update(facts={"shared_storage_id": ""})
    assert staying(cloud) == {"lost": [("web", "storage_not_shared")]}


def test_a_group_that_must_stay_apart_is_gone_through(cloud: LossyPool) -> None:
    group = create_group(actor=cloud.owner, tenant=cloud.tenant, name="apart", rule="anti_affinity")
    cloud.create("a", group=group.name)
    assert staying(cloud) == {}
    Host.objects.exclude(name="lost").update(admin_state="disabled")
    assert staying(cloud) == {"lost": [("a", "no_valid_host")]}


def test_what_ends_by_itself_keeps_nobody_away(cloud: LossyPool) -> None:
    group = create_group(actor=cloud.owner, tenant=cloud.tenant, name="apart", rule="anti_affinity")
    instance = cloud.create("a", group=group.name)
    Instance.unscoped.filter(id=instance.id).update(state="building")
    assert staying(cloud) == {}


def test_more_tight_hosts_than_are_gone_through_are_named(cloud: LossyPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compute.services.loss_forecast.HOSTS_LOOKED_AT", 0)
    cloud.create("web")
    Host.objects.exclude(name="lost").update(admin_state="disabled")
    found = foresee_losses(actor=cloud.operator, pool=cloud.pool)
    assert [(loss.host.name, loss.looked_at) for loss in found.worst] == [("lost", False)]
    assert (found.staying, found.not_looked_at) == (0, 1)


def test_who_is_deleted_while_it_is_drawn_up_is_left_out(cloud: LossyPool) -> None:
    """Nothing is locked: guests, their rooms and what they are of are read one after another."""
    cloud.create("stays")
    gone = cloud.create("goes")
    with _right_after('FROM "compute_port"', lambda: Allocation.objects.filter(consumer_id=gone.id).delete()):
        _, fates = foresee_loss(actor=cloud.operator, reference="lost")
    assert [fate.instance.name for fate in fates] == ["stays"]


def test_a_flavor_that_comes_while_it_is_drawn_up_is_no_riddle(cloud: LossyPool) -> None:
    instance = cloud.create("web")

    def resized() -> None:
        Instance.unscoped.filter(id=instance.id).update(flavor=make_flavor("fresh"))

    with _right_after('FROM "compute_flavor"', resized):
        assert staying(cloud) == {}


@contextmanager
def _right_after(fragment: str, act: Callable[[], object]) -> Iterator[None]:
    """Act once, right after the first query with the fragment. AssertionError where there is none."""
    waiting = [act]

    def wrapper(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        result = execute(sql, params, many, context)
        if waiting and fragment in sql:
            waiting.pop()()
        return result

    with connection.execute_wrapper(wrapper):
        yield
    assert not waiting


def test_its_queries_do_not_grow_with_the_guests(cloud: LossyPool) -> None:
    cloud.create("first")
    with CaptureQueriesContext(connection) as one:
        foresee_losses(actor=cloud.operator, pool=cloud.pool)
    for number in range(4):
        cloud.create(f"more-{number}")
    with CaptureQueriesContext(connection) as five:
        foresee_losses(actor=cloud.operator, pool=cloud.pool)
    assert len(five) == len(one)
