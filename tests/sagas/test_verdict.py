"""Every row of the table of outcomes (docs/migration.md), and no state without a verdict."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from compute.sagas.verdict import Verdict, judge
from compute.wire import DomainLook, PowerState

ABSENT, OFF = DomainLook("absent"), DomainLook("stopped", persistent=True)
RUNS, LEAVING = DomainLook("running", persistent=True), DomainLook("running", outgoing=True, persistent=True)
PAUSED, HANDING_OVER = DomainLook("paused", persistent=True), DomainLook("paused", outgoing=True, persistent=True)
ARRIVED, COMING = DomainLook("running"), DomainLook("paused", incoming=True)
UNHEARD = None


@pytest.mark.parametrize(
    ("source", "destination", "verdict"),
    [
        (LEAVING, COMING, "going"),
        (LEAVING, ABSENT, "going"),
        (LEAVING, UNHEARD, "going"),
        (HANDING_OVER, COMING, "going"),
        (RUNS, ABSENT, "stayed"),
        (RUNS, OFF, "stayed"),
        (RUNS, COMING, "stayed"),
        (RUNS, UNHEARD, "stayed"),
        (ABSENT, ARRIVED, "moved"),
        (OFF, ARRIVED, "moved"),
        (PAUSED, ARRIVED, "moved"),
        (HANDING_OVER, ARRIVED, "moved"),
        (UNHEARD, ARRIVED, "moved"),
        (PAUSED, ABSENT, "resume"),
        (PAUSED, OFF, "resume"),
        (PAUSED, COMING, "recall"),
        (PAUSED, PAUSED, "recall"),
        (OFF, ABSENT, "ended"),
        (ABSENT, ABSENT, "ended"),
        (ABSENT, OFF, "ended"),
        (OFF, COMING, "unclear"),
        (ABSENT, COMING, "unclear"),
        (RUNS, ARRIVED, "split"),
        (LEAVING, ARRIVED, "split"),
        (UNHEARD, UNHEARD, "wait"),
        (UNHEARD, ABSENT, "wait"),
        (UNHEARD, COMING, "wait"),
        (PAUSED, UNHEARD, "wait"),
        (OFF, UNHEARD, "wait"),
        (ABSENT, UNHEARD, "wait"),
    ],
)
def test_outcome(source: DomainLook | None, destination: DomainLook | None, verdict: Verdict) -> None:
    assert judge(source, destination) == verdict


def test_never_two_copies_are_let_run_and_none_is_given_up_unseen() -> None:
    """Of all that two ends can show: a guest is taken to be the destination's only where it was seen to run there."""
    looks = [
        None,
        *(
            DomainLook(power, incoming=incoming, outgoing=outgoing)
            for power in get_args(PowerState)
            for incoming, outgoing in itertools.product((False, True), repeat=2)
        ),
    ]
    for source, destination in itertools.product(looks, repeat=2):
        verdict = judge(source, destination)
        runs_there = destination is not None and destination.power == "running"
        runs_here = source is not None and source.power == "running"
        assert (verdict == "moved") == (runs_there and not runs_here)
        assert (verdict == "split") == (runs_there and runs_here)
        if verdict in ("stayed", "resume", "recall", "ended"):
            assert source is not None
            assert not runs_there
            assert not source.outgoing
        if verdict in ("resume", "recall", "ended"):
            assert destination is not None, "what cannot be asked may run"
