"""Plans of rebalancing, held to a judge that counts by the plainest means."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.balance.carrying import Pace
from compute.scheduler.balance.cluster import Cluster, ClusterError
from compute.scheduler.balance.layout import Layout
from compute.scheduler.balance.order import ordered
from compute.scheduler.balance.planner import Plan, level, relief
from compute.scheduler.balance.relief import fewest_moves
from tests.factories.clusters import Json, cluster, judge, judge_times
from tests.scheduler.strategies import counted

# A deviation is the root of a difference of nearly equal numbers; where hosts are alike its last 8 digits are noise.
ROUNDING = 1e-6
PACE = Pace(1000.0)

clusters = st.builds(
    cluster,
    st.integers(1, 9),
    st.integers(0, 60),
    st.integers(0, 10_000),
    uneven=st.booleans(),
    busy=st.sampled_from([1.0, 2.0, 3.0]),
)


def moves(plan: Plan) -> Any:
    return plan.as_json(0.8, PACE)["moves"]


@counted
@given(clusters, st.sampled_from([0.0, 0.1, 0.3, 5.0]))
def test_levelling_takes_legal_steps_and_ends_where_it_says(data: Json, target: float) -> None:
    plan = level(Cluster.from_json(data), target=target)
    end = judge(data, moves(plan))
    assert end.score() == pytest.approx(plan.after.score(), abs=ROUNDING)
    assert end.score() <= judge(data, []).score() + 1e-9
    if judge(data, []).score() <= target:
        assert not plan.steps


@counted
@given(clusters, st.integers(0, 6))
def test_no_more_moves_than_allowed(data: Json, most: int) -> None:
    assert len(level(Cluster.from_json(data), most=most).steps) <= most
    assert len(relief(Cluster.from_json(data), 0.5, most=most).steps) <= most


@counted
@given(clusters, st.sampled_from([0.3, 0.5, 0.8]))
def test_relief_makes_no_host_hotter_than_the_limit_nor_moves_more_than_it_must(data: Json, limit: float) -> None:
    given_cluster = Cluster.from_json(data)
    plan = relief(given_cluster, limit)
    before, after = judge(data, []).loads(), judge(data, moves(plan)).loads()
    for name, load in after.items():
        assert load <= max(limit, before[name]) + 1e-9
    if all(load <= limit for load in after.values()):
        assert len(plan.steps) >= fewest_moves(given_cluster, limit)


@counted
@given(clusters, st.randoms(use_true_random=False))
def test_what_a_move_would_make_of_the_score_is_what_it_makes(data: Json, dice: Any) -> None:
    layout = Layout(Cluster.from_json(data))
    for _ in range(min(8, len(layout.host_of))):
        guest, target = dice.randrange(len(layout.host_of)), dice.randrange(len(layout.cluster.hosts))
        if layout.host_of[guest] == target:
            continue
        foretold = layout.after_move(np.array([guest]), np.array([target]))[0]
        layout.move(guest, target)
        assert layout.score() == pytest.approx(foretold, abs=ROUNDING)
        assert layout.score() == pytest.approx(Layout(layout.cluster, layout.host_of).score(), abs=ROUNDING)


@counted
@given(clusters)
def test_what_an_exchange_would_make_of_the_score_is_what_it_makes(data: Json) -> None:
    layout = Layout(Cluster.from_json(data))
    for guest, other in itertools.islice(itertools.combinations(range(len(layout.host_of)), 2), 40):
        foretold = float(layout.after_exchange(np.array([guest]), np.array([other]))[0])
        if foretold == float("inf"):
            continue
        swapped = layout.host_of.copy()
        swapped[[guest, other]] = swapped[[other, guest]]
        after = Layout(layout.cluster, swapped)
        assert after.score() == pytest.approx(foretold, abs=ROUNDING)
        assert (after.used[:2] <= np.maximum(layout.cluster.room, layout.used[:2])).all()


def test_the_same_cluster_gives_the_same_plan() -> None:
    data = cluster(12, 120, 3)
    assert moves(level(Cluster.from_json(data))) == moves(level(Cluster.from_json(data))) != []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("uneven", [False, True])
def test_hot_hosts_are_relieved_by_the_fewest_moves(seed: int, uneven: bool) -> None:
    data = cluster(40, 600, seed, uneven=uneven, busy=2.0)
    given_cluster = Cluster.from_json(data)
    plan = relief(given_cluster, 0.8)
    assert fewest_moves(given_cluster, 0.8) > 0
    assert max(judge(data, moves(plan)).loads().values()) <= 0.8 + 1e-9
    assert len(plan.steps) <= fewest_moves(given_cluster, 0.8) + 1


def test_a_target_is_reached_with_fewer_moves_than_the_best_score() -> None:
    data = cluster(40, 400, 1)
    best = level(Cluster.from_json(data))
    modest = level(Cluster.from_json(data), target=0.2)
    assert best.after.score() < 0.1 < modest.after.score() <= 0.2
    assert len(modest.steps) < len(best.steps)


def tight(*memory: int) -> Json:
    """Hosts of 10 GiB with one guest each, as large as given in GiB, and a last host that holds 2 GiB."""
    nodes = [
        {"name": f"n{row}", "vcpus": 8, "memory_mib": 10 * 1024, "reserved_mib": 0} for row, _ in enumerate(memory)
    ] + [{"name": "spare", "vcpus": 8, "memory_mib": 2 * 1024, "reserved_mib": 0}]
    instances = [
        {"name": f"i{row}", "vcpus": 1, "memory_mib": gib * 1024, "load": 0.1, "node": f"n{row}", "group": None}
        for row, gib in enumerate(memory)
    ]
    limits = {"vcpu_ratio": 4.0, "shared_storage": True}
    return {"format": "cluster/1", "nodes": nodes, "instances": instances, "limits": limits}


def test_guests_that_wait_for_each_other_are_parted_by_a_hop_over_a_third_host() -> None:
    data = tight(9, 2)
    goal = np.array([1, 0])
    given_cluster = Cluster.from_json(data)
    steps = [(step.guest, step.source, step.target) for step in ordered(given_cluster, goal, hops=1)]
    assert steps == [(1, 1, 2), (0, 0, 1), (1, 2, 0)]
    assert ordered(given_cluster, goal) == []


def test_what_cannot_be_reached_is_left_out() -> None:
    assert ordered(Cluster.from_json(tight(9, 9)), np.array([1, 0]), hops=5) == []


def test_members_of_a_group_are_parted_first() -> None:
    data = tight(3, 3, 3)
    for instance in data["instances"][:2]:
        instance |= {"node": "n0", "group": "apart"}
    plan = level(Cluster.from_json(data), most=1)
    assert plan.before.conflicts == 1
    assert plan.after.conflicts == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "cluster/2"}, '"format": "cluster/1"'),
        ({"limits": None}, "limits: an object"),
        ({"limits": {"vcpu_ratio": 4, "shared_storage": False}}, "only true can be planned for"),
        ({"limits": {"vcpu_ratio": 0, "shared_storage": True}}, "limits.vcpu_ratio: a number"),
        ({"nodes": []}, "at least one"),
        ({"nodes": "n0"}, "nodes: a list of objects"),
        (
            {"nodes": [{"name": "n0", "vcpus": True, "memory_mib": 1, "reserved_mib": 0}], "instances": []},
            "nodes[0].vcpus",
        ),
        ({"instances": [{"name": ""}]}, "instances[0].name"),
        (
            {"instances": [{"name": "a", "vcpus": 1, "memory_mib": 1, "load": 1.5, "node": "n0"}]},
            "a number from 0 to 1",
        ),
        (
            {"instances": [{"name": "a", "vcpus": 1, "memory_mib": 1, "load": 0, "node": "n9"}]},
            "one of the nodes is expected, not 'n9'",
        ),
        ({"instances": [{"name": "a", "vcpus": 1, "memory_mib": float("nan"), "load": 0, "node": "n0"}]}, "memory_mib"),
        ({"instances": [{"name": "a", "vcpus": 1, "memory_mib": 1, "load": 0, "node": "n0", "group": 3}]}, "group"),
    ],
)
def test_a_wrong_description_is_explained(change: Json, says: str) -> None:
    with pytest.raises(ClusterError) as caught:
        Cluster.from_json(tight(1) | change)
    assert says in str(caught.value)


def test_names_are_not_there_twice() -> None:
    data = tight(1, 1)
    data["instances"][1]["name"] = "i0"
    with pytest.raises(ClusterError, match="there twice"):
        Cluster.from_json(data)


def test_the_command_prints_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, data = tmp_path / "cluster.json", cluster(10, 100, 1, busy=3.0)
    file.write_text(json.dumps(data))
    call_command("cluster_balance", file, "--goal", "relieve", "--limit", "0.9")
    printed = json.loads(capsys.readouterr().out)
    assert printed["before"]["hosts_over_limit"] > 0 == printed["after"]["hosts_over_limit"]
    assert judge(data, printed["moves"]).score() == pytest.approx(printed["after"]["score"], abs=1e-5)


def test_the_command_says_when_each_move_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, data = tmp_path / "cluster.json", cluster(10, 100, 1)
    file.write_text(json.dumps(data))
    call_command("cluster_balance", file, "--link-rate", "300", "--leaving", "2", "--coming", "3")
    printed = json.loads(capsys.readouterr().out)
    seconds = judge_times(data, printed["moves"], rate=300.0, leaving=2, coming=3)
    assert seconds == printed["seconds"] >= printed["busiest_link_seconds"] > 0
    memory = {row["name"]: row["memory_mib"] for row in data["instances"]}
    assert all(move["memory_mib"] == memory[move["instance"]] for move in printed["moves"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "Expecting value"),
        (("--limit", "-1"), "--limit"),
        (("--target-score", "nan"), "--target"),
        (("--link-rate", "0"), "nothing can move"),
    ],
)
def test_the_command_explains_what_is_wrong(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    (tmp_path / "cluster.json").write_text("nonsense")
    with pytest.raises(CommandError, match=says):
        call_command("cluster_balance", tmp_path / "cluster.json", *words)
