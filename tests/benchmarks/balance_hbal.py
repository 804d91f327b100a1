"""Plans of rebalancing beside those of Ganeti's `hbal` for the same clusters: `python -m tests.benchmarks.balance_hbal [FILE ...]`.

Files hold clusters in the form `cluster/1`; without any, clusters are generated: even and uneven hosts, three seeds each.
Printed are the score (sd of free memory, of vCPUs and of load over the hosts), moves, GiB moved and CPU seconds of a
process of its own. `best` goes as far as it pays; `equal` asks for hbal's own score; `relief` brings hosts to at most 80 %
load, beside the least number of moves that any plan needs. Every plan is judged step by step.

`hbal` is in Debian's ganeti-htools-3.0. It gets 300 s of CPU; where that does not do, only our side is printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from compute.scheduler.balance.carrying import Pace
from compute.scheduler.balance.cluster import Cluster
from compute.scheduler.balance.planner import Plan, level, relief
from compute.scheduler.balance.relief import fewest_moves
from tests.factories.clusters import Json, cluster, judge

HBAL: Final = Path("/usr/lib/ganeti/3.0/usr/bin/hbal")
SIZES: Final = ((10, 100), (40, 400), (100, 2000))
LARGE: Final = ((400, 8000), (1000, 20000))
# hbal's time grows with the cube; beyond, it needs minutes for each.
MOST_FOR_HBAL: Final = 40
SEEDS: Final = 3
BUSY: Final = 2.0
LIMIT: Final = 0.8
PACE: Final = Pace(1000.0)
_HBAL_SECONDS: Final = 300
_MOVE: Final = re.compile(r"^\s*\d+\.\s+(\S+)\s+(\S+)\s+=>\s+(\S+)", re.MULTILINE)
_GROUP: Final = "11111111-1111-1111-1111-111111111111"


class Result(NamedTuple):
    score: float
    moves: int
    gib: float
    seconds: float


def by_hbal(data: Json, directory: Path) -> Result | None:
    """What hbal makes of the cluster; None where it is not installed or does not come to an end in time."""
    if not HBAL.exists():
        return None
    text, loads = directory / "cluster.text", directory / "loads"
    text.write_text(_as_text(data))
    # hbal takes loads as shares of a host, all hosts alike: where they are not, of the mean host.
    threads = statistics.fmean(node["vcpus"] for node in data["nodes"])
    shares = ((row["name"], row["vcpus"] * row["load"] / threads) for row in data["instances"])
    loads.write_text("".join(f"{name} {share:.6f} 0 0 0\n" for name, share in shares))
    words = [HBAL, "-t", text, "-U", loads, "--exclusion-tags=g", "-C", "-l", "100000"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_HBAL_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return None
    moves = [{"instance": name, "from": source, "to": target} for name, source, target in _MOVE.findall(done.stdout)]
    return _result(data, moves, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)


def _result(data: Json, moves: list[dict[str, str]], seconds: float) -> Result:
    memory = {row["name"]: row["memory_mib"] for row in data["instances"]}
    gib = sum(memory[move["instance"]] for move in moves) / 1024
    return Result(judge(data, moves).score(), len(moves), gib, seconds)


def by_cenote(data: Json, make: Callable[[Cluster], Plan]) -> Result:
    """Reading the description is part of the time, starting Python is not."""
    start = time.process_time()
    plan = make(Cluster.from_json(data))
    moves: list[dict[str, str]] = plan.as_json(LIMIT, PACE)["moves"]
    return _result(data, moves, time.process_time() - start)


def _as_text(data: Json) -> str:
    """The cluster in hbal's own form (htools(1)); disks are shared, so that a move is a migration."""
    end = judge(data, [])
    nodes = []
    for node in data["nodes"]:
        name, total, reserved = node["name"], node["memory_mib"], node["reserved_mib"]
        free = total - reserved - end.memory[name]
        fields = (
            name,
            total,
            reserved,
            free,
            100_000_000,
            100_000_000,
            node["vcpus"],
            "N",
            _GROUP,
            1,
            "",
            "N",
            0,
            0,
            1.0,
        )
        nodes.append("|".join(map(str, fields)))
    guests = []
    for row in data["instances"]:
        tag = f"g:{row['group']}" if row["group"] is not None else ""
        fields = (
            row["name"],
            row["memory_mib"],
            1024,
            row["vcpus"],
            "running",
            "Y",
            row["node"],
            "",
            "ext",
            tag,
            1,
            "-",
        )
        guests.append("|".join(map(str, fields)))
    spec = "128,1,1024,1,1,1;1048576,64,1048576,16,8,12"
    policy = f"128,1,1024,1,1,1|{spec}|ext|{data['limits']['vcpu_ratio']}|1000.0"
    sections = ([f"default|{_GROUP}|preferred||"], nodes, guests, [], [f"|{policy}", f"default|{policy}"])
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def show(label: str, result: Result, peer: Result | None, remark: str = "") -> None:
    ratio = (
        f"   {result.score / peer.score:5.2f} of hbal's score, {result.moves / max(1, peer.moves):5.2f} of its moves"
        if peer
        else ""
    )
    score, moves, gib, seconds = result
    print(
        f"  {label:<8} score {score:7.4f}  {moves:5} moves  {gib:7.0f} GiB  {seconds:7.2f} s CPU{ratio}{remark}",
        flush=True,
    )


def compare(name: str, data: Json, *, with_hbal: bool) -> None:
    start = judge(data, [])
    hot = sum(load > LIMIT for load in start.loads().values())
    print(
        f"{name}: score {start.score():.4f}, highest load {max(start.loads().values()):.2f}, {hot} hosts over {LIMIT:.0%}"
    )
    peer = None
    if with_hbal:
        with tempfile.TemporaryDirectory() as directory:
            peer = by_hbal(data, Path(directory))
        if peer:
            show("hbal", peer, None)
        else:
            print(f"  hbal     is not installed, or was stopped after {_HBAL_SECONDS} s")
    show("best", by_cenote(data, level), peer)
    if peer:
        target = peer.score
        show("equal", by_cenote(data, lambda cluster: level(cluster, target=target)), peer)
    show_relief(data)


def show_relief(data: Json) -> None:
    result = by_cenote(data, lambda cluster: relief(cluster, LIMIT))
    show("relief", result, None, f"   least possible {fewest_moves(Cluster.from_json(data), LIMIT)} moves")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--large", action="store_true", help="400 x 8,000 and 1,000 x 20,000 as well, without hbal")
    options = parser.parse_args()
    for file in options.files:
        compare(file.stem, json.loads(file.read_text()), with_hbal=True)
    if options.files:
        return
    for hosts, guests in SIZES:
        for seed, uneven in itertools.product(range(1, SEEDS + 1), (False, True)):
            name = f"{hosts} x {guests}, seed {seed}, {'uneven' if uneven else 'even'}"
            compare(name, cluster(hosts, guests, seed, uneven=uneven), with_hbal=hosts <= MOST_FOR_HBAL)
    for (hosts, guests), uneven in itertools.product((*SIZES, LARGE[0]), (False, True)):
        print(f"{hosts} x {guests}, {'uneven' if uneven else 'even'}, {BUSY:g} times as busy")
        show_relief(cluster(hosts, guests, 1, uneven=uneven, busy=BUSY))
    for hosts, guests in LARGE if options.large else ():
        compare(f"{hosts} x {guests}", cluster(hosts, guests, 1), with_hbal=False)


if __name__ == "__main__":
    main()
