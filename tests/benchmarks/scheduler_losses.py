"""What a decision costs that honours N+1: `python -m tests.benchmarks.scheduler_losses`.

100 hosts of 64 CPUs x 4 and 1,024 GiB take 2,000 instances, 2 to 16 vCPU, from the stream of scheduler_packing. Then each decision is
made from nothing but the snapshot and the guests: plan the loss of every host, name the exposed ones, rank. Printed is
CPU time of the process, with room to spare and with less; and how far a pool of 20 hosts fills under N+1,
against the volume bound of one host fewer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

from compute.scheduler.losses import Guest, Losses
from compute.scheduler.model import RESOURCES, Policy, Ranking, Request
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from tests.benchmarks.scheduler_packing import stream
from tests.factories.scheduler import host, resources

POLICY = Policy("spread")


def decide(snapshot: Snapshot, guests: list[Guest], request: Request, policy: Policy, *, count: int = 1) -> Ranking:
    """Rank the request so that any `count` hosts may be lost afterwards."""
    exposed = Losses.plan(snapshot, guests, count).exposed(request)
    return rank(snapshot, replace(request, exposed_hosts=exposed), policy)


def pool(hosts: int, instances: int, *, seed: int, memory_gib: int) -> tuple[Snapshot, list[Guest], Iterator[Request]]:
    """Hosts that took so many instances from the stream, by `spread`."""
    total = resources(64, memory_gib * 1024, 8_000)
    snapshot = Snapshot.from_hosts(host(f"host-{number:03}", total=total, vcpu_ratio=4.0) for number in range(hosts))
    guests: list[Guest] = []
    requests = stream(seed)
    while len(guests) < instances:
        request = next(requests)
        chosen = rank(snapshot, request, POLICY).candidates[0].host_id
        snapshot = snapshot.after(chosen, request.resources)
        guests.append(Guest(f"{len(guests):05}", chosen, request))
    return snapshot, guests, requests


def cpu_ms(
    snapshot: Snapshot, guests: list[Guest], requests: Iterator[Request], *, count: int, times: int
) -> list[float]:
    """CPU of each decision, in milliseconds."""
    found = []
    for _ in range(times):
        request = next(requests)
        start = time.process_time()
        ranking = decide(snapshot, guests, request, POLICY, count=count)
        len(ranking.candidates)
        found.append((time.process_time() - start) * 1000)
    return found


def filled(hosts: int, *, seed: int, policy: Policy) -> float:
    """Part of the volume of all hosts but one that is used when N+1 first refuses, in the scarcest resource."""
    snapshot, guests, requests = pool(hosts, 0, seed=seed, memory_gib=512)
    while True:
        request = next(requests)
        candidates = decide(snapshot, guests, request, policy).candidates
        if not candidates:
            break
        chosen = candidates[0].host_id
        snapshot = snapshot.after(chosen, request.resources)
        guests.append(Guest(f"{len(guests):05}", chosen, request))
    return max(
        float(snapshot.used[name].sum()) / (float(snapshot.capacity[name].sum()) * (hosts - 1) / hosts)
        for name in RESOURCES
    )


def main() -> None:
    for label, memory_gib in (("room to spare", 1024), ("less room", 400)):
        snapshot, guests, requests = pool(100, 2_000, seed=1, memory_gib=memory_gib)
        memory = snapshot.used["memory_mib"].sum() / snapshot.capacity["memory_mib"].sum()
        found = sorted(cpu_ms(snapshot, guests, requests, count=1, times=60))
        print(
            f"N+1, 100 hosts, 2,000 instances, {label} (memory {memory:.0%}): "
            f"median {statistics.median(found):.1f} ms, largest {found[-1]:.1f} ms CPU"
        )
    snapshot, guests, requests = pool(100, 2_000, seed=1, memory_gib=1024)
    found = sorted(cpu_ms(snapshot, guests, requests, count=2, times=3))
    print(f"N+2, 100 hosts, 2,000 instances: median {statistics.median(found):.0f} ms CPU")
    for name in ("spread", "pack"):
        parts = [filled(20, seed=seed, policy=Policy(name)) for seed in range(3)]
        print(f"{name}: filled 20 hosts to {min(parts):.1%} .. {max(parts):.1%} of the volume of 19")


if __name__ == "__main__":
    main()
