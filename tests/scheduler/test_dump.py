"""The flight recorder: complete, equal for equal decisions, honest about what it cannot read."""

from __future__ import annotations

import json

import pytest

from compute.scheduler import model
from compute.scheduler.dump import DumpError, dump, load, replay
from compute.scheduler.model import Policy
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from tests.factories.scheduler import host, request, resources

HOSTS = [host("a", load=0.3), host("b", used=resources(4, 100, 7)), host("c", admin_state="draining")]
SPREAD = Policy("spread")


def test_dump_is_the_same_text_whatever_the_order_of_hosts() -> None:
    there = dump(HOSTS, request(), SPREAD, rank(HOSTS, request(), SPREAD))
    back = dump(Snapshot.from_hosts(HOSTS[::-1]), request(), SPREAD, rank(HOSTS[::-1], request(), SPREAD))
    assert json.dumps(there) == json.dumps(back)


def test_replay_keeps_the_weights_of_its_day_when_defaults_change(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = rank(HOSTS, request(), SPREAD)
    data = dump(HOSTS, request(), SPREAD, recorded)
    monkeypatch.setattr(model, "POLICY_WEIGHTS", {"spread": {"pack": 3.0}})
    assert rank(HOSTS, request(), SPREAD) != recorded
    assert replay(data) == recorded


def test_replay_under_another_policy_answers_what_would_have_been() -> None:
    data = dump(HOSTS, request(), SPREAD, rank(HOSTS, request(), SPREAD))
    assert load(data).ranking.candidates[0].host_id == "a"
    assert replay(data, policy=Policy("pack")).candidates[0].host_id == "b"


@pytest.mark.parametrize("data", [{}, {"version": 1}, {"version": 2}, {"version": 1, "hosts": [{}]}])
def test_what_is_no_dump_of_this_release_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(DumpError):
        load(data)
