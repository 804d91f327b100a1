from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from compute.wire import NetworkSpec
from tests.network.topology import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts on one underlay."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    made = Lab()
    try:
        made.add_host()
        made.add_host()
        yield made
    finally:
        made.close()


@pytest.fixture
def network(lab: Lab, request: pytest.FixtureRequest) -> NetworkSpec:
    """A network of this test's own, known to both hosts."""
    number = request.config.stash.get(_COUNT, 0) + 1
    request.config.stash[_COUNT] = number
    spec = NetworkSpec(
        id=f"00000000-0000-4000-8000-{number:012x}",
        vni=4096 + number,
        cidr=f"10.{number}.0.0/16",
        gateway=f"10.{number}.0.1",
    )
    lab.connect(spec)
    return spec


_COUNT = pytest.StashKey[int]()
