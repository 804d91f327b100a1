"""How long plans of rebalancing take, simulated: `python -m tests.benchmarks.balance_timetable [FILE ...] [--large]`.

Files hold clusters in the form `cluster/1`; without any, clusters are generated: even and uneven hosts, eight seeds each.
Each move starts as soon as it may. Printed are the seconds until the last has ended, beside those that the busiest link
needs for what goes over it (no order of moves is faster), and the CPU of the timetable. Links carry 1,000 MiB/s each way.
Every timetable is judged: room, groups and limits at each moment, and what each link carries.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from compute.scheduler.balance.carrying import Pace
from compute.scheduler.balance.cluster import Cluster
from compute.scheduler.balance.planner import level, relief
from compute.scheduler.balance.timetable import Timetable
from tests.factories.clusters import Json, cluster, judge_times

RATE: Final = 1000.0
SIZES: Final = ((10, 100), (40, 400), (40, 800), (100, 2000))
LARGE: Final = ((400, 8000), (1000, 20000))
SEEDS: Final = 8
LIMIT: Final = 0.8


class Result(NamedTuple):
    name: str
    ratio: float


def timed(name: str, data: Json, goal: str, lanes: int) -> Result | None:
    """Plan, make the timetable and have it judged. None where there is nothing to move."""
    given = Cluster.from_json(data)
    plan = level(given) if goal == "level" else relief(given, LIMIT)
    if not plan.steps:
        return None
    start = time.process_time()
    timetable = Timetable.of(given, plan.steps, Pace(RATE, lanes, lanes))
    cpu = time.process_time() - start
    moves: list[dict[str, Any]] = [
        {"instance": given.guests[guest], "from": given.hosts[source], "to": given.hosts[target]} | slot._asdict()
        for (guest, source, target), slot in zip(plan.steps, timetable.slots, strict=True)
    ]
    seconds = judge_times(data, moves, rate=RATE, leaving=lanes, coming=lanes)
    ratio = seconds / timetable.least
    print(
        f"{name:<32} {goal:<8} {len(moves):5} moves  {seconds:7.1f} s, busiest link {timetable.least:7.1f} s  "
        f"{ratio:6.3f}  {cpu:6.3f} s CPU",
        flush=True,
    )
    return Result(f"{name}, {goal}", ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--large", action="store_true", help="400 x 8,000 and 1,000 x 20,000 as well")
    parser.add_argument(
        "--lanes", type=int, default=1, help="guests that leave, and that come to, a host at a time (1)"
    )
    options = parser.parse_args()
    clusters = [(file.stem, json.loads(file.read_text())) for file in options.files]
    for (hosts, guests), seed, uneven in itertools.product(
        () if options.files else SIZES, range(1, SEEDS + 1), (False, True)
    ):
        name = f"{hosts} x {guests}, seed {seed}, {'uneven' if uneven else 'even'}"
        clusters.append((name, cluster(hosts, guests, seed, uneven=uneven)))
    for (hosts, guests), uneven in itertools.product(LARGE if options.large else (), (False, True)):
        name = f"{hosts} x {guests}, {'uneven' if uneven else 'even'}"
        clusters.append((name, cluster(hosts, guests, 1, uneven=uneven)))
    results = [
        result
        for (name, data), goal in itertools.product(clusters, ("level", "relieve"))
        if (result := timed(name, data, goal, options.lanes))
    ]
    ratios = sorted(result.ratio for result in results)
    if ratios:
        worst = max(results, key=lambda result: result.ratio)
        within = sum(ratio <= 1.1 for ratio in ratios)
        print(
            f"{len(ratios)} timetables: {within} within 1.1 of the busiest link, median {ratios[len(ratios) // 2]:.3f}, "
            f"worst {worst.ratio:.3f} ({worst.name})"
        )


if __name__ == "__main__":
    main()
