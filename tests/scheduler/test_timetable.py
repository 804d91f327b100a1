"""Timetables of plans, held to a judge that counts by the plainest means."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.balance.carrying import Pace
from compute.scheduler.balance.cluster import Cluster
from compute.scheduler.balance.order import Step, ordered
from compute.scheduler.balance.planner import level
from compute.scheduler.balance.timetable import Timetable
from tests.factories.clusters import Json, cluster, judge_times
from tests.scheduler.strategies import counted

RATE = 512.0

clusters = st.builds(cluster, st.integers(2, 9), st.integers(0, 60), st.integers(0, 10_000), uneven=st.booleans())


def timed(data: Json, steps: list[Step], pace: Pace) -> tuple[list[dict[str, Any]], Timetable]:
    given_cluster = Cluster.from_json(data)
    timetable = Timetable.of(given_cluster, steps, pace)
    moves = [
        {
            "instance": given_cluster.guests[guest],
            "from": given_cluster.hosts[source],
            "to": given_cluster.hosts[target],
        }
        | slot._asdict()
        for (guest, source, target), slot in zip(steps, timetable.slots, strict=True)
    ]
    return moves, timetable


@counted
@given(clusters, st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 3))
def test_moves_that_start_as_soon_as_they_may_are_legal_at_every_moment(
    data: Json, dice: Any, leaving: int, coming: int
) -> None:
    given_cluster = Cluster.from_json(data)
    goal = given_cluster.host_of.copy()
    dice.shuffle(goal)
    steps = ordered(given_cluster, goal, hops=5)
    moves, timetable = timed(data, steps, Pace(RATE, leaving, coming))
    seconds = judge_times(data, moves, rate=RATE, leaving=leaving, coming=coming)
    assert seconds == timetable.seconds
    assert timetable.least * (1 - 1e-9) <= seconds <= sum(move["end"] - move["start"] for move in moves) + 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("uneven", [False, True])
def test_the_busiest_link_is_hardly_idle(seed: int, uneven: bool) -> None:
    data = cluster(40, 800, seed, uneven=uneven)
    plan = level(Cluster.from_json(data))
    moves, timetable = timed(data, list(plan.steps), Pace(RATE))
    assert len(moves) > 50
    memory = {row["name"]: row["memory_mib"] for row in data["instances"]}
    most = max(
        sum(memory[move["instance"]] for move in moves if move[end] == node["name"])
        for end, node in itertools.product(("from", "to"), data["nodes"])
    )
    assert timetable.least == pytest.approx(most / RATE)
    assert judge_times(data, moves, rate=RATE, leaving=1, coming=1) <= 1.1 * most / RATE


def pairs(*guests: tuple[int, int], hosts: int, gib: int = 10) -> Json:
    """Hosts of so many GiB, and guests: their GiB and host."""
    nodes = [{"name": f"n{row}", "vcpus": 8, "memory_mib": gib * 1024, "reserved_mib": 0} for row in range(hosts)]
    instances = [
        {"name": f"i{row}", "vcpus": 1, "memory_mib": size * 1024, "load": 0.1, "node": f"n{host}", "group": None}
        for row, (size, host) in enumerate(guests)
    ]
    limits = {"vcpu_ratio": 4.0, "shared_storage": True}
    return {"format": "cluster/1", "nodes": nodes, "instances": instances, "limits": limits}


def slots(data: Json, goal: list[int], pace: Pace) -> list[tuple[float, float]]:
    given_cluster = Cluster.from_json(data)
    steps = ordered(given_cluster, np.array(goal))
    by_guest = zip(steps, Timetable.of(given_cluster, steps, pace).slots, strict=True)
    return [(slot.start, slot.end) for _, slot in sorted(by_guest)]


def test_a_move_starts_once_the_room_that_it_needs_is_free() -> None:
    data = pairs((8, 0), (8, 1), hosts=3)
    assert slots(data, [1, 2], Pace(1024.0)) == [(8.0, 16.0), (0.0, 8.0)]


def test_moves_between_other_hosts_run_at_the_same_time() -> None:
    data = pairs((4, 0), (4, 1), hosts=4)
    assert slots(data, [2, 3], Pace(1024.0)) == [(0.0, 4.0), (0.0, 4.0)]


def test_a_link_is_shared_evenly_until_one_of_two_has_ended() -> None:
    data = pairs((2, 0), (4, 0), hosts=3)
    assert slots(data, [1, 2], Pace(1024.0, leaving=2)) == [(0.0, 4.0), (0.0, 6.0)]
    assert slots(data, [1, 2], Pace(1024.0)) == [(4.0, 6.0), (0.0, 4.0)]


def test_a_member_of_a_group_waits_until_the_other_has_left() -> None:
    data = pairs((1, 0), (4, 1), hosts=3)
    for instance in data["instances"]:
        instance["group"] = "apart"
    assert slots(data, [1, 2], Pace(1024.0)) == [(4.0, 5.0), (0.0, 4.0)]


def test_no_step_takes_the_room_of_one_that_it_overtakes() -> None:
    """The last fits on n1 at once; the large one, which goes over n1 before it, would then wait for ever."""
    data = pairs((4, 0), (5, 1), (7, 2), hosts=5)
    steps = [Step(1, 1, 4), Step(2, 2, 1), Step(2, 1, 3), Step(0, 0, 1)]
    moves, timetable = timed(data, steps, Pace(1024.0))
    assert judge_times(data, moves, rate=1024.0, leaving=1, coming=1) == 23.0
    assert timetable.slots == ((0.0, 5.0), (5.0, 12.0), (12.0, 19.0), (19.0, 23.0))


def test_a_step_overtakes_where_the_others_keep_their_room() -> None:
    data = pairs((2, 0), (5, 1), (7, 2), hosts=4)
    steps = [Step(1, 1, 3), Step(2, 2, 1), Step(0, 0, 1)]
    moves, timetable = timed(data, steps, Pace(1024.0))
    assert judge_times(data, moves, rate=1024.0, leaving=1, coming=1) == 12.0
    assert timetable.slots[2] == (0.0, 2.0)


def test_no_steps_take_no_time() -> None:
    timetable = Timetable.of(Cluster.from_json(pairs((4, 0), hosts=2)), [], Pace(1.0))
    assert (timetable.slots, timetable.seconds, timetable.least) == ((), 0.0, 0.0)
