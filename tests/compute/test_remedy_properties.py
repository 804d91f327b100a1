"""What is offered to a refused create makes that create succeed, and no proper part of it does: by the real services."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.models import Decision, Network, Pool
from tests.compute.offers import REFUSALS, create, undone, works
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import make_tenant
from tests.scheduler.strategies import counted

amounts = st.fixed_dictionaries(
    {"vcpus": st.integers(1, 5), "memory_mib": st.integers(1, 5).map(lambda n: n * 100), "disk_gib": st.integers(1, 5)}
)
limits = st.dictionaries(
    st.sampled_from(["instances", "vcpus", "memory_mib", "disk_gib"]), st.integers(0, 8), max_size=2
)
clouds = st.fixed_dictionaries(
    {
        "pools": st.lists(st.lists(amounts, max_size=3), min_size=1, max_size=2),
        "tight": st.booleans(),
        "asked": amounts,
        "least_disk": st.integers(1, 2),
        "count": st.sampled_from([1, 1, 1, 2, 15]),
        "limits": st.tuples(limits, limits),
    }
)


@pytest.mark.django_db
@settings(
    counted, max_examples=max(5, int(os.environ.get("CENOTE_TEST_EXAMPLES", "80")) // 8)
)  # each makes many creates
@given(clouds)
def test_an_offer_makes_the_same_create_succeed_and_no_part_of_it_does(cloud: dict[str, Any]) -> None:
    with undone():
        image = make_image("tiny")
        image.virtual_size_gib = cloud["least_disk"]
        image.save()
        pools = [make_pool(f"pool-{number}", cidr=f"10.{number}.0.0/20") for number in range(len(cloud["pools"]))]
        for pool, hosts in zip(pools, cloud["pools"], strict=True):
            for size in hosts:
                make_host(pool, **size)
        if cloud["tight"]:
            Network.objects.filter(pool=pools[0]).update(cidr="10.0.0.0/27")
        asked = {**cloud["asked"], "disk_gib": max(cloud["asked"]["disk_gib"], cloud["least_disk"])}
        make_flavor("asked", **asked)
        root = make_tenant("root", limits=cloud["limits"][0])
        leaf = make_tenant("leaf", parent=root, limits=cloud["limits"][1])
        order = {"flavor": "asked", "pool": Pool.objects.get(name="pool-0").name, "count": cloud["count"]}
        try:
            create(leaf, order)
        except REFUSALS as error:
            refused = error
        else:
            return
        assert Decision.unscoped.get().code == refused.code
        for remedy in refused.data["remedies"]:
            changes = remedy["changes"]
            assert works(leaf, order, changes, asked), remedy
            for number in range(len(changes)):
                for part in itertools.combinations(changes, number):
                    assert not works(leaf, order, part, asked), (remedy, part)
