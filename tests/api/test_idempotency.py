"""The same Idempotency-Key again: the same answer, the work done once, whatever happened in between."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloud.api.models import IdempotencyKey
from compute.models import Instance, Operation
from compute.services.instances_create import create_instances
from tenants.models import ApiToken
from tenants.services.tokens import authenticate_token
from tests.api.conftest import Caller, World
from tests.factories.tenants import make_token


def _create(caller: Caller, world: World, key: str, **fields: Any) -> Any:
    return caller("POST", "instances", world.order(**fields), Idempotency_Key=key)


def test_the_same_request_again_gets_the_same_answer(world: World) -> None:
    first, second = (_create(world.owner, world, "k") for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert first["Location"] == second["Location"]
    assert second["Idempotency-Replayed"] == "true"
    assert Instance.unscoped.count() == 1


def test_another_token_of_the_same_person_is_the_same_caller(world: World) -> None:
    assert world.owner.user is not None
    _create(world.owner, world, "k")
    _create(Caller(make_token(world.owner.user, world.tenant)), world, "k")
    assert Instance.unscoped.count() == 1


def test_keys_of_different_callers_do_not_meet(world: World) -> None:
    _create(world.owner, world, "k")
    assert _create(world.mine["admin"], world, "k").status_code == 202
    assert _create(world.foreign, world, "k").status_code == 202
    assert Instance.unscoped.count() == 3


def test_another_body_or_address_under_the_same_key_is_refused(world: World) -> None:
    _create(world.owner, world, "k")
    other = _create(world.owner, world, "k", name="other")
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"
    elsewhere = world.owner("POST", "instances/web/actions/stop", {}, Idempotency_Key="k")
    assert elsewhere.status_code == 422
    assert Instance.unscoped.count() == 1


def test_a_wrong_input_is_told_again_and_a_conflict_is_tried_again(world: World) -> None:
    wrong = [_create(world.owner, world, "w", flavor="nosuch") for _ in range(2)]
    assert [answer.status_code for answer in wrong] == [400, 400]
    assert wrong[1]["Content-Type"] == "application/problem+json"
    assert wrong[1]["Idempotency-Replayed"] == "true"
    world.operator.ok("PATCH", f"quotas?tenant={world.tenant.id}", {"limits": {"instances": 0}})
    assert _create(world.owner, world, "q").status_code == 409
    world.operator.ok("PATCH", f"quotas?tenant={world.tenant.id}", {"limits": {"instances": None}})
    assert _create(world.owner, world, "q").status_code == 202


@pytest.mark.parametrize("key", ["", " ", "a b", "ü", "x" * 256])
def test_a_malformed_key_is_refused(world: World, key: str) -> None:
    response = _create(world.owner, world, key)
    assert response.status_code == 400
    assert response.json()["code"] == "idempotency_key_malformed"
    assert not Instance.unscoped.exists()


def _row_of_a_dead_process(world: World) -> IdempotencyKey:
    """What a process leaves that took the key, and then died: made by a real request whose answer is taken back."""
    assert _create(world.owner, world, "k").status_code == 202
    row = IdempotencyKey.objects.get()
    IdempotencyKey.objects.update(status=None, body=None, headers={})
    return row


def test_death_after_the_commit_does_not_do_the_work_twice(world: World) -> None:
    row = _row_of_a_dead_process(world)
    made = Operation.objects.get()
    assert made.request_key == row.id
    again = _create(world.owner, world, "k")
    assert again.status_code == 202
    assert again.json()["operation"]["id"] == str(made.id)
    assert again["Location"] == f"/api/v1/operations/{made.id}"
    assert Instance.unscoped.count() == 1
    assert _create(world.owner, world, "k").json() == again.json()


def test_death_before_the_commit_leaves_the_work_to_the_next_request(world: World) -> None:
    _row_of_a_dead_process(world)
    Operation.objects.update(request_key=None)
    assert _create(world.owner, world, "k").status_code == 202
    assert Instance.unscoped.count() == 2


def test_death_after_a_create_of_many_gives_all_of_them_back(world: World) -> None:
    actor = authenticate_token(text=world.owner.token)
    order = world.order(count=3)
    first = world.owner("POST", "instances", order, Idempotency_Key="k").json()
    IdempotencyKey.objects.update(status=None, body=None)
    again = world.owner("POST", "instances", order, Idempotency_Key="k").json()
    assert [row["id"] for row in again["instances"]] == [row["id"] for row in first["instances"]]
    assert create_instances(actor=actor, tenant=world.tenant, name="x", flavor="nano", image="tiny").instances
    assert Instance.unscoped.count() == 4


def test_after_a_day_a_key_is_fresh_again(world: World) -> None:
    _create(world.owner, world, "k")
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert _create(world.owner, world, "k", name="other").status_code == 202
    assert IdempotencyKey.objects.count() == 1


def test_a_tokens_text_is_kept_nowhere_in_clear(world: World) -> None:
    first = world.owner("POST", "tokens", {"name": "ci"}, Idempotency_Key="k")
    text = first.json()["token"]
    assert text not in str(IdempotencyKey.objects.values_list("body", flat=True).get())
    assert world.owner("POST", "tokens", {"name": "ci"}, Idempotency_Key="k").json()["token"] == text
    assert ApiToken.unscoped.filter(name="ci").count() == 1
