"""How long one ranking takes, by the number of hosts: `python -m tests.benchmarks.scheduler_rank`.

Columns, all medians in milliseconds over repeated runs on one core:
objects    rank_hosts, host by host, every candidate and refusal made
build      Snapshot.from_hosts: once per snapshot, not once per request
rank       rank on a kept snapshot, best candidate read: what one placement pays
all read   the same, with every candidate and every refusal read
after      Snapshot.after: the snapshot once one instance is placed
refuse     rank a request that fits nowhere and tell the tenant why
remedies   the smallest changes that would make it fit
dump       dump to JSON text, load and replay (the flight recorder; not on the way of a placement)
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from compute.scheduler import explain
from compute.scheduler.dump import dump, replay
from compute.scheduler.model import HostState, Policy, Request, Resources
from compute.scheduler.ranking import rank, rank_hosts
from compute.scheduler.snapshot import Snapshot
from tests.factories.scheduler import host, request, resources

SIZES = (100, 1_000, 5_000, 10_000)
POLICY = Policy("spread")


def fleet(size: int) -> list[HostState]:
    """A worn fleet: every tenth host out of service, the others 0 to 90 % full, some with traits."""
    return [
        host(
            f"{number * 2654435761 % 2**32:08x}-{number}",
            total=resources(32, 131072, 2000),
            reserved=resources(2, 4096, 50),
            vcpu_ratio=4.0,
            used=resources(number * 7 % 108, number * 12345 % 114000, number * 97 % 1755),
            admin_state="draining" if number % 10 == 0 else "enabled",
            traits=frozenset({"ssd"} if number % 3 else {"ssd", "numa"}),
            load=number % 100 / 100,
        )
        for number in range(size)
    ]


def median_ms(call: Callable[[], Any], *, seconds: float = 0.6) -> float:
    """Median over as many runs as fit into `seconds`, at least 5."""
    call()
    times: list[float] = []
    gc.collect()
    gc.disable()
    try:
        while len(times) < 5 or sum(times) < seconds:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return statistics.median(times) * 1000


def measure(size: int) -> dict[str, float]:
    hosts = fleet(size)
    snapshot = Snapshot.from_hosts(hosts)
    fitting = request(2, 4096, 40)
    nowhere = Request("vm", Resources(2, 4096, 5000), required_traits=frozenset({"numa"}))

    def recorded() -> Any:
        ranking = rank(snapshot, fitting, POLICY)
        return replay(json.loads(json.dumps(dump(snapshot, fitting, POLICY, ranking))))

    def read_all() -> Any:
        ranking = rank(snapshot, fitting, POLICY)
        return tuple(ranking.candidates), tuple(ranking.refusals)

    best = rank(snapshot, fitting, POLICY).candidates[0].host_id
    return {
        "objects": median_ms(lambda: rank_hosts(hosts, fitting, POLICY)),
        "build": median_ms(lambda: Snapshot.from_hosts(hosts)),
        "rank": median_ms(lambda: rank(snapshot, fitting, POLICY).candidates[0]),
        "all read": median_ms(read_all),
        "after": median_ms(lambda: snapshot.after(best, fitting.resources)),
        "refuse": median_ms(lambda: explain.tenant_summary(rank(snapshot, nowhere, POLICY))),
        "remedies": median_ms(lambda: explain.remedies(snapshot, nowhere, POLICY)),
        "dump": median_ms(recorded),
    }


def main() -> None:
    rows = {size: measure(size) for size in SIZES}
    columns = list(rows[SIZES[0]])
    print("hosts   " + "".join(f"{column:>11}" for column in columns) + "   (median ms)")
    for size, row in rows.items():
        print(f"{size:<8}" + "".join(f"{row[column]:>11.3f}" for column in columns))


if __name__ == "__main__":
    main()
