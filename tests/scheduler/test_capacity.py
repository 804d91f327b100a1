"""The formula: capacity, and what fits beside what is used."""

from __future__ import annotations

import pytest

from compute.scheduler.capacity import fits
from compute.scheduler.model import Inventory, Resources, Shortfall
from tests.factories.scheduler import resources

NOTHING = resources()


def inventory(total: Resources, reserved: Resources = NOTHING, ratio: float = 1.0) -> Inventory:
    return Inventory(total=total, reserved=reserved, vcpu_ratio=ratio, memory_ratio=ratio, disk_ratio=ratio)


def test_capacity_is_what_is_not_reserved_times_the_ratio() -> None:
    offered = Inventory(
        total=resources(10, 8192, 100), reserved=resources(2, 512, 10), vcpu_ratio=4.0, memory_ratio=1.5, disk_ratio=1.0
    )
    assert offered.capacity() == resources(32, 11520, 90)


def test_capacity_is_rounded_down() -> None:
    assert inventory(resources(3, 3, 3), ratio=1.5).capacity() == resources(4, 4, 4)


def test_capacity_does_not_lose_a_unit_to_float_rounding() -> None:
    assert int(100 * 1.15) == 114, "the float product that the exact one has to beat"
    assert inventory(resources(100, 100, 100), ratio=1.15).capacity() == resources(115, 115, 115)


def test_reserving_more_than_there_is_leaves_nothing_and_never_less() -> None:
    assert inventory(resources(2, 2, 2), resources(5, 5, 5)).capacity() == resources(0, 0, 0)


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -1.0])
def test_a_ratio_that_is_no_amount_is_an_error(ratio: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        inventory(resources(1, 1, 1), ratio=ratio).capacity()


def test_an_exact_fit_fits() -> None:
    assert fits(inventory(resources(4, 4, 4)), resources(1, 2, 3), resources(3, 2, 1)) == ()


def test_one_unit_too_many_is_told_with_its_numbers() -> None:
    assert fits(inventory(resources(4, 1024, 4)), resources(0, 512, 0), resources(1, 513, 1)) == (
        Shortfall(resource="memory_mib", asked=513, free=512, margin=-1, unit="MiB"),
    )


def test_every_resource_that_lacks_is_told() -> None:
    lacks = fits(inventory(resources(1, 1, 1)), resources(1, 1, 1), resources(1, 1, 1))
    assert [lack.resource for lack in lacks] == ["vcpus", "memory_mib", "disk_gib"]


def test_a_host_that_shrank_below_its_use_takes_nothing_of_that_resource() -> None:
    (lack,) = fits(inventory(resources(4, 4, 4)), resources(6, 0, 0), resources(1, 1, 1))
    assert (lack.resource, lack.free, lack.margin) == ("vcpus", -2, -3)


def test_a_host_that_shrank_still_takes_what_asks_nothing_of_that_resource() -> None:
    assert fits(inventory(resources(4, 4, 4)), resources(6, 0, 0), resources(0, 1, 1)) == ()


def test_resources_add_subtract_and_compare_each_amount_for_itself() -> None:
    small, large = resources(1, 2, 3), resources(4, 5, 6)
    assert small + large == resources(5, 7, 9)
    assert large - small == resources(3, 3, 3)
    assert small <= large
    assert not large <= small
    assert not resources(9, 0, 0) <= large
    assert not large <= resources(9, 0, 0)
