"""How full the `pack` policy gets a pool: a few seeds of the benchmark, so that a change of the weigher cannot lose it."""

from __future__ import annotations

import pytest

from compute.scheduler.model import Policy
from compute.scheduler.ranking import rank
from tests.benchmarks.scheduler_packing import CHOICES, SHAPES, shares
from tests.factories.scheduler import host, request, resources

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_pack_uses_nearly_all_of_the_volume_bound(shape: str) -> None:
    found = [shares(SHAPES[shape], seed, CHOICES["pack"])[0] for seed in SEEDS]
    assert sorted(found)[1] >= 0.99


def test_pack_wins_where_all_resources_run_out_together() -> None:
    for seed in SEEDS:
        by_pack, by_best_fit = (shares(SHAPES["three"], seed, CHOICES[name])[0] for name in ("pack", "best fit"))
        assert by_pack > by_best_fit


def test_pack_gives_a_lopsided_host_what_evens_it_out() -> None:
    hosts = [host("no-memory", used=resources(2, 6144, 30)), host("no-vcpus", used=resources(6, 2048, 30))]
    many_vcpus, much_memory = request(2, 256, 1), request(1, 2048, 1)
    assert rank(hosts, many_vcpus, Policy("pack")).candidates[0].host_id == "no-memory"
    assert rank(hosts, much_memory, Policy("pack")).candidates[0].host_id == "no-vcpus"


def test_pack_values_stay_between_0_and_1() -> None:
    for used in (
        resources(),
        resources(8, 0, 0),
        resources(0, 8192, 100),
        resources(12, 0, 300),
        resources(7, 8000, 1),
    ):
        for wanted in (request(0, 0, 0), request(1, 0, 0), request(0, 192, 0), request(1, 192, 1)):
            for candidate in rank([host(used=used)], wanted, Policy("pack")).candidates:
                assert 0.0 <= candidate.contributions["pack"] <= 1.0
