"""Host loss over HTTP: what operators order and read, and that a dry run moves nobody."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from compute.models import Evacuation, Host, Instance, Operation
from tests.api.conftest import World
from tests.factories.compute import make_host

pytestmark = pytest.mark.django_db


@pytest.fixture
def second(world: World) -> Host:
    """A host beside the one of an active guest; the latter is down."""
    world.owner.ok("POST", "instances", world.order(), status=202)
    Instance.unscoped.update(state="active")
    Operation.objects.update(state="succeeded", finished_at=timezone.now())
    host = make_host(world.pool, name="second")
    Host.objects.update(facts={"shared_storage_id": "one"})
    seen = timezone.now() - timedelta(minutes=5)
    Host.objects.filter(id=world.host.id).update(observed_state="down", last_seen_at=seen)
    return host


def test_fence_and_evacuate(world: World, second: Host) -> None:
    at = f"hosts/{world.host.name}"
    refused = world.operator("POST", f"{at}/actions/evacuate", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_state")
    fence = world.operator.ok("POST", f"{at}/actions/fence", {"statement": "it is in the bin"}, status=202)
    assert (fence["state"], fence["driver"], fence["evidence"]) == ("proved", "operator", "it is in the bin")
    found = world.operator.ok("POST", f"{at}/actions/evacuate", {}, status=202)
    assert found["state"] == "running"
    loss = world.operator.ok("GET", f"{at}/loss")
    assert (loss["fence"]["id"], loss["evacuation"]["id"], loss["debts"]) == (fence["id"], found["id"], 0)
    assert world.operator.ok("GET", f"hosts/{world.host.id}")["observed_state"] == "fenced"


def test_a_dry_run_says_who_would_come_back_where_and_moves_nobody(world: World, second: Host) -> None:
    path = f"hosts/{world.host.name}/actions/evacuate?dry_run=true"
    foreseen = world.operator.ok("POST", path, {})
    assert [(row["instance"]["name"], row["host"], row["code"]) for row in foreseen["guests"]] == [
        ("web", "second", "")
    ]
    Host.objects.filter(id=second.id).update(admin_state="disabled")
    (row,) = world.operator.ok("POST", path, {})["guests"]
    assert (row["host"], row["code"]) == ("", "no_valid_host")
    assert not Evacuation.objects.exists()
    assert Instance.unscoped.get().host_id == world.host.id


def test_a_driver_that_is_not_configured_is_told(world: World, second: Host) -> None:
    refused = world.operator("POST", f"hosts/{world.host.name}/actions/fence", {})
    assert refused.status_code == 409
    assert "No driver is configured" in refused.json()["detail"]


@pytest.mark.parametrize("priority", [101, -1, "90", True, None])
def test_a_priority_is_a_whole_number_up_to_100(world: World, second: Host, priority: object) -> None:
    path = f"instances/{Instance.unscoped.get().id}/actions/prioritize"
    assert world.operator("POST", path, {"priority": priority}).status_code == 400


def test_a_priority_is_kept(world: World, second: Host) -> None:
    path = f"instances/{Instance.unscoped.get().id}/actions/prioritize"
    assert world.operator.ok("POST", path, {"priority": 90})["evacuation_priority"] == 90
    assert world.operator.ok("GET", f"hosts/{world.host.name}/loss")["guests"][0]["priority"] == 90


def test_what_a_loss_sets_going_is_the_pools_policy(world: World) -> None:
    before = world.operator.ok("GET", "pools/lab")
    assert (before["auto_fence"], before["auto_evacuate"]) == (False, False)
    after = world.operator.ok("PATCH", "pools/lab", {"auto_fence": True, "auto_evacuate": True})
    assert (after["auto_fence"], after["auto_evacuate"]) == (True, True)
    assert "auto_fence" not in world.owner.ok("GET", "pools/lab")
