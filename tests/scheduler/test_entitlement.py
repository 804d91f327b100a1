"""Weighted max-min fairness: its defining properties, and the tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.entitlement import Claimant, divide, entitlements

wishes = st.dictionaries(
    st.integers(0, 20), st.tuples(st.integers(1, 10_000), st.floats(0, 64, allow_nan=False)), min_size=1, max_size=8
)


@given(amount=st.floats(0, 100), asked=wishes)
def test_nobody_gets_more_than_it_wants_and_nothing_is_left_while_one_wants_more(
    amount: float, asked: dict[int, tuple[int, float]]
) -> None:
    parts = divide(amount, asked)
    assert all(-1e-9 <= parts[key] <= wanted + 1e-9 for key, (_, wanted) in asked.items())
    assert sum(parts.values()) == pytest.approx(min(amount, sum(wanted for _, wanted in asked.values())), abs=1e-6)


@given(amount=st.floats(0.1, 100), asked=wishes)
def test_who_goes_short_has_no_less_for_its_weight_than_anybody_else(
    amount: float, asked: dict[int, tuple[int, float]]
) -> None:
    parts = divide(amount, asked)
    for key, (weight, wanted) in asked.items():
        if parts[key] < wanted - 1e-6:
            assert all(parts[key] / weight >= parts[other] / asked[other][0] - 1e-6 for other in asked)


def alone(key: str, *, shares: int = 100, delivered: float, wanted: float, parent: str | None = None) -> Claimant:
    return Claimant(key, parent, shares, delivered, wanted)


def test_one_guest_and_six_with_equal_shares_are_entitled_alike() -> None:
    found = entitlements([alone("a", delivered=0.2, wanted=1), alone("b", delivered=0.8, wanted=6)], own_shares=100)
    assert found == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}


def test_who_waited_for_nothing_is_entitled_to_what_it_got_and_the_rest_goes_by_shares() -> None:
    found = entitlements(
        [
            alone("idle", delivered=0.1, wanted=0.1, shares=10_000),
            alone("a", delivered=0.9, wanted=2, shares=300),
            alone("b", delivered=1.0, wanted=2),
        ],
        own_shares=100,
    )
    assert found == {"idle": pytest.approx(0.1), "a": pytest.approx(1.425), "b": pytest.approx(0.475)}


def test_what_a_team_leaves_goes_to_its_sister_before_other_departments() -> None:
    found = entitlements(
        [
            alone("department", delivered=0.3, wanted=2),
            alone("busy", parent="department", delivered=0.3, wanted=2),
            alone("quiet", parent="department", delivered=0, wanted=0),
            alone("other", delivered=0.7, wanted=2),
        ],
        own_shares=100,
    )
    assert found["busy"] == pytest.approx(0.5)
    assert found["other"] == pytest.approx(0.5)


def test_own_guests_weigh_as_one_child_of_normal_shares() -> None:
    found = entitlements(
        [
            alone("parent", delivered=1, wanted=8),
            alone("child", parent="parent", shares=300, delivered=0.1, wanted=4),
        ],
        own_shares=100,
    )
    assert found == {"parent": pytest.approx(1), "child": pytest.approx(0.75)}


def test_child_whose_parent_does_not_run_there_stands_at_the_top() -> None:
    found = entitlements([alone("child", parent="elsewhere", delivered=1, wanted=1)], own_shares=100)
    assert found == {"child": pytest.approx(1)}


def test_no_tenants_no_entitlements() -> None:
    assert entitlements([], own_shares=100) == {}
