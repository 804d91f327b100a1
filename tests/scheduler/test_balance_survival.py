"""Steps of plans explain themselves, and leave losses of hosts absorbed that were before."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.balance.carrying import Pace
from compute.scheduler.balance.cluster import Cluster
from compute.scheduler.balance.order import Step
from compute.scheduler.balance.planner import keeping_losses, level, relief
from compute.scheduler.balance.reasons import reasons
from compute.scheduler.balance.survival import surviving
from tests.factories.clusters import Json, cluster, judge
from tests.scheduler.strategies import counted

PACE = Pace(1000.0)

small = st.builds(cluster, st.integers(2, 5), st.integers(1, 14), st.integers(0, 10_000), uneven=st.booleans())


def absorbed(data: Json, where: dict[str, str], lost: str) -> bool:
    """Whether the guests of a lost host find room elsewhere, all ways tried."""
    left = [row | {"node": where[row["name"]]} for row in data["instances"]]
    state = judge(data | {"instances": [row for row in left if row["node"] != lost]}, [])
    homeless = [row for row in left if row["node"] == lost]
    others = [node["name"] for node in data["nodes"] if node["name"] != lost]

    def place(number: int) -> bool:
        if number == len(homeless):
            return True
        for host in others:
            if state.why_not(homeless[number], host) is None:
                state.put(homeless[number], host, 1)
                if place(number + 1):
                    return True
                state.put(homeless[number], host, -1)
        return False

    return place(0)


@counted
@given(small)
def test_where_no_loss_is_uncovered_every_lost_host_finds_room_at_each_step(data: Json) -> None:
    plan = keeping_losses(level(Cluster.from_json(data)), 1)
    printed = plan.as_json(0.8, PACE)
    assert judge(data, printed["moves"]).score() == pytest.approx(printed["after"]["score"], abs=1e-5)
    counts = [printed["uncovered_losses_before"], *(move["uncovered_losses"] for move in printed["moves"])]
    assert max(counts) == counts[0]
    where = {row["name"]: row["node"] for row in data["instances"]}
    for count, move in itertools.zip_longest(counts, printed["moves"]):
        if count == 0 and len(data["instances"]) <= 8:
            assert all(absorbed(data, where, node["name"]) for node in data["nodes"])
        if move is not None:
            where[move["instance"]] = move["to"]


def three(*guests: tuple[int, int]) -> Json:
    """Three hosts of 10 GiB and guests: their GiB and host."""
    nodes = [{"name": f"n{row}", "vcpus": 8, "memory_mib": 10 * 1024, "reserved_mib": 0} for row in range(3)]
    instances = [
        {"name": f"i{row}", "vcpus": 1, "memory_mib": size * 1024, "load": 1.0, "node": f"n{host}", "group": None}
        for row, (size, host) in enumerate(guests)
    ]
    limits = {"vcpu_ratio": 4.0, "shared_storage": True}
    return {"format": "cluster/1", "nodes": nodes, "instances": instances, "limits": limits}


def with_a_small_host(*guests: tuple[int, int]) -> Cluster:
    """The last of the three hosts gives guests 4 GiB only."""
    data = three(*guests)
    data["nodes"][2]["reserved_mib"] = 6 * 1024
    return Cluster.from_json(data)


def test_a_step_that_would_uncover_a_loss_is_left_out() -> None:
    """The 6 GiB of n0 have 6 on n1 to go to; a guest that comes there takes some of it."""
    given_cluster = with_a_small_host((6, 0), (4, 1), (1, 2))
    assert surviving(given_cluster, [Step(2, 2, 1)], 1) == ([], [0])
    assert surviving(with_a_small_host((5, 0), (4, 1), (1, 2)), [Step(2, 2, 1)], 1) == ([Step(2, 2, 1)], [0, 0])


def test_a_step_waits_until_another_has_made_it_safe() -> None:
    given_cluster = with_a_small_host((6, 0), (1, 1), (3, 1), (1, 2))
    unsafe, safe = Step(3, 2, 1), Step(2, 1, 2)
    assert surviving(given_cluster, [unsafe, safe], 1) == ([safe, unsafe], [0, 0, 0])


def test_hot_hosts_are_the_reason_where_there_are_any() -> None:
    data = three((1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 0))
    plan = relief(Cluster.from_json(data), 0.8)
    assert [move["reason"] for move in plan.as_json(0.8, PACE)["moves"]] == ["CPU load: n0 88% -> 75%, n1 0% -> 12%"]


def test_a_group_and_a_way_round_are_reasons() -> None:
    data = three((1, 0), (1, 0), (2, 1))
    for instance in data["instances"][:2]:
        instance["group"] = "apart"
    steps = [Step(1, 0, 2), Step(2, 1, 2), Step(2, 2, 0)]
    assert reasons(Cluster.from_json(data), steps, 0.8) == [
        "parts it from another member of its group on n0",
        "out of the way, until there is room on n0",
        "memory: n2 30% -> 10%, n0 10% -> 30%",
    ]


def test_the_command_keeps_losses_absorbed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, data = tmp_path / "cluster.json", cluster(10, 60, 1)
    file.write_text(json.dumps(data))

    def printed(*words: str) -> Any:
        call_command("cluster_balance", file, *words)
        return json.loads(capsys.readouterr().out)

    assert "uncovered_losses_before" not in printed()
    kept = printed("--keep-losses", "2")
    assert kept["moves"]
    assert all(move["uncovered_losses"] <= kept["uncovered_losses_before"] for move in kept["moves"])
    with pytest.raises(CommandError, match="--keep-losses: losses of -1"):
        printed("--keep-losses", "-1")
