"""A rush over the API for more than there is room: exactly what fits is taken, the rest is told why, nothing is half done."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from compute.models import Allocation, Decision, Host, Instance, Operation
from compute.selectors.invariants import check_all
from tests.concurrency.conftest import all_at_once
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.nodes import play, run_to_end
from tests.factories.tenants import make_member, make_tenant, make_token

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = 40
RUSH = 100


@pytest.fixture
def crowd(web: str) -> list[httpx.Client]:
    """Twenty tenants on several levels, each with a token and enough quota; the pool has room for ROOM instances."""
    pool = make_pool("rush")
    for _ in range(4):
        make_host(pool, vcpus=ROOM // 4, memory_mib=65_536, disk_gib=1000)
    make_flavor("small")
    make_image("tiny")
    clients = []
    for number in range(20):
        tenant = make_tenant(f"root-{number}", limits={"instances": 100})
        for level in range(number % 3):
            tenant = make_tenant(f"level-{level}", parent=tenant)
        user = make_member(tenant, "operator").user
        headers = {"Authorization": f"Bearer {make_token(user, tenant)}"}
        clients.append(httpx.Client(base_url=f"{web}/api/v1", headers=headers, timeout=60))
    return clients


@pytest.mark.timeout(180)
def test_100_creates_against_room_for_40(crowd: list[httpx.Client], tmp_path: Path) -> None:
    answers = all_at_once(crowd, RUSH, {"flavor": "small", "image": "tiny"})
    codes = Counter(answer.status_code for answer in answers)
    assert codes == {202: ROOM, 409: RUSH - ROOM}, [a.text for a in answers if a.status_code not in (202, 409)]
    for answer in answers:
        if answer.status_code == 409:
            problem = answer.json()
            assert problem["code"] == "no_valid_host"
            assert any("vCPU" in reason for reason in problem["reasons"]), problem
            assert "host" not in problem["tally"], "a tenant learns counts, not names"
    assert Instance.unscoped.count() == Allocation.objects.count() == Operation.objects.count() == ROOM
    assert Decision.unscoped.filter(outcome="refused").count() == RUSH - ROOM
    assert sum(Host.objects.values_list("used_vcpus", flat=True)) == ROOM
    assert check_all() == []
    nodes = [play(host, tmp_path / host.name) for host in Host.objects.all()]
    for operation_id in Operation.objects.values_list("id", flat=True):
        assert run_to_end(operation_id, *nodes).state == "succeeded"
    for node in nodes:
        node.beat()
    assert check_all() == []


def test_the_same_key_sent_many_times_at_once_makes_one_instance(crowd: list[httpx.Client]) -> None:
    answers: list[httpx.Response] = []
    body = {"name": "once", "flavor": "small", "image": "tiny"}

    def one() -> None:
        answers.append(crowd[0].post("/instances", json=body, headers={"Idempotency-Key": "the-key"}))

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {202, 409}
    again = crowd[0].post("/instances", json=body, headers={"Idempotency-Key": "the-key"})
    assert again.status_code == 202
    assert Instance.unscoped.count() == 1
    made = {answer.json()["instance"]["id"] for answer in [*answers, again] if answer.status_code == 202}
    assert len(made) == 1
    other = crowd[0].post("/instances", json={**body, "name": "other"}, headers={"Idempotency-Key": "the-key"})
    assert other.status_code == 422
