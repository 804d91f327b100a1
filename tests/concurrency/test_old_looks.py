"""Schedulers in several processes rank on looks that are out of date when they claim: no host is oversold, and nobody is
refused while there is room."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from django.db import connections

from compute.errors import NoValidHost
from compute.models import Allocation, Host
from compute.placement import place as placing
from compute.selectors.invariants import check_all
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tenants.services.access import Actor
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import make_actor, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

PROCESSES = 6
EACH = 10
ROOM = 41
_fork = multiprocessing.get_context("fork")


def _scheduler(number: int, who: tuple[Actor, Tenant], begin: Any, told: Any) -> None:
    """Create EACH instances, and let time pass between each look and the claim that follows from it."""
    honest, dice = placing.rank, random.Random(number)

    def late(*arguments: Any) -> Any:
        ranking = honest(*arguments)
        time.sleep(dice.uniform(0, 0.04))
        return ranking

    placing.rank = late
    actor, tenant = who
    begin.wait(30)
    answers: Counter[str] = Counter()
    for index in range(EACH):
        try:
            create_instances(actor=actor, tenant=tenant, name=f"old-{number}-{index}", flavor="small", image="tiny")
            answers["placed"] += 1
        except NoValidHost:
            answers["refused"] += 1
        except Exception as error:
            answers[repr(error)] += 1
    told.put(answers)
    told.close()
    told.join_thread()
    os._exit(0)  # the test's own fixtures are not this process's to end


@pytest.mark.timeout(120)
@pytest.mark.parametrize("policy", ["spread", "pack"])
def test_old_looks_neither_oversell_nor_refuse_while_there_is_room(policy: str) -> None:
    pool = make_pool("old", policy=policy)
    sizes = [1, 3, 7, 9, 21]
    assert sum(sizes) == ROOM
    for size in sizes:
        make_host(pool, vcpus=size, memory_mib=65_536, disk_gib=1000)
    make_flavor("small")
    make_image("tiny")
    callers = []
    for number in range(PROCESSES):
        tenant = make_tenant(f"root-{number}")
        callers.append((make_actor("operator", tenant), tenant))
    connections.close_all()
    begin, told = _fork.Barrier(PROCESSES), _fork.Queue()
    schedulers = [
        _fork.Process(target=_scheduler, args=(number, who, begin, told), daemon=True)
        for number, who in enumerate(callers)
    ]
    for scheduler in schedulers:
        scheduler.start()
    answers: Counter[str] = Counter()
    for _ in schedulers:
        answers += told.get(timeout=90)
    for scheduler in schedulers:
        scheduler.join(10)
    assert answers == {"placed": ROOM, "refused": PROCESSES * EACH - ROOM}
    assert Allocation.objects.count() == ROOM
    assert sorted(Host.objects.values_list("used_vcpus", flat=True)) == sizes
    assert check_all() == []
