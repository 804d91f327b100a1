"""How full a pool gets before it refuses: `python -m tests.benchmarks.scheduler_packing`.

A stream of flavors, drawn at random, goes one by one into 20 empty hosts until the first refusal. The *volume bound* is
what the same stream puts into one host as large as all 20: it is refused when a sum runs out, not for want of a hole.
Printed is placed / bound in the resource of which most is used at the bound, for 20 seeds.

Flavors: families as clouds sell them (2, 4 and 8 GiB per vCPU), 1 to 16 vCPU by powers of two, small ones more often,
20 GiB of disk per vCPU. The largest takes a fourth of the smallest host. Hosts: 64 CPUs x 4, in four shapes:

memory     512 GiB: the usual host, memory is scarce
even       768 GiB: with this mix memory is a little scarcer than vCPUs
exact      1,024 GiB: as many GiB per vCPU as the stream asks for on average: both run out together, the hardest case
three      1,024 GiB and 5,120 GiB of disk: all three run out together

The peers choose by one rule each: `best fit` the host fullest on average, `dot product` the host whose free room, weighted
by what is asked, is least (Panigrahy et al. 2011), `spread` the policy of that name. They see the same hosts, filters and
tie-break. `of capacity` is the same amount against the hosts' whole capacity, which the bound itself cannot quite use.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from typing import Final

from compute.scheduler.model import RESOURCES, HostState, Policy, Request, Resources
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from tests.factories.scheduler import host, resources

HOSTS, SEEDS = 20, 20
SHAPES: Final = {
    "memory": resources(64, 512 * 1024, 6_000),
    "even": resources(64, 768 * 1024, 6_000),
    "exact": resources(64, 1024 * 1024, 6_000),
    "three": resources(64, 1024 * 1024, 5_120),
}
# GiB per vCPU -> how often; vCPUs -> how often
_FAMILIES: Final = {2: 2, 4: 1, 8: 1}
_SIZES: Final = {1: 8, 2: 8, 4: 5, 8: 3, 16: 1}

Choice = Callable[[Snapshot, Request], str | None]


def stream(seed: int) -> Iterator[Request]:
    """Requests without end, the same for the same seed."""
    dice = random.Random(seed)
    while True:
        (gib,) = dice.choices(list(_FAMILIES), list(_FAMILIES.values()))
        (vcpus,) = dice.choices(list(_SIZES), list(_SIZES.values()))
        yield Request("vm", Resources(vcpus, vcpus * gib * 1024, vcpus * 20))


def fleet(shape: Resources) -> list[HostState]:
    return [host(f"host-{number:02}", total=shape, vcpu_ratio=4.0) for number in range(HOSTS)]


def bound(shape: Resources, seed: int) -> tuple[Resources, str]:
    """What the stream puts into all hosts as one, and the resource of which most is used by then."""
    capacity = {name: HOSTS * getattr(fleet(shape)[0].inventory.capacity(), name) for name in RESOURCES}
    total = resources()
    for request in stream(seed):
        more = total + request.resources
        if any(getattr(more, name) > capacity[name] for name in RESOURCES):
            break
        total = more
    return total, max(RESOURCES, key=lambda name: getattr(total, name) / capacity[name])


def placed(shape: Resources, seed: int, choose: Choice) -> Resources:
    """What is on the hosts at the first refusal."""
    snapshot, total = Snapshot.from_hosts(fleet(shape)), resources()
    for request in stream(seed):
        chosen = choose(snapshot, request)
        if chosen is None:
            break
        snapshot, total = snapshot.after(chosen, request.resources), total + request.resources
    return total


def by_policy(policy: Policy) -> Choice:
    def choose(snapshot: Snapshot, request: Request) -> str | None:
        candidates = rank(snapshot, request, policy).candidates
        return candidates[0].host_id if candidates else None

    return choose


def by_least(room: Callable[[HostState, Request], float]) -> Choice:
    """The peer that takes the candidate with the least of something; ties by id, as the product breaks them."""

    def choose(snapshot: Snapshot, request: Request) -> str | None:
        candidates = [
            snapshot.hosts[snapshot.row_of[item.host_id]] for item in rank(snapshot, request, SPREAD).candidates
        ]
        return min(candidates, key=lambda host: (room(host, request), host.id)).id if candidates else None

    return choose


def _free(host: HostState, name: str) -> float:
    capacity: int = getattr(host.inventory.capacity(), name)
    used: int = getattr(host.used, name)
    return 1.0 - used / capacity


def _free_on_average(host: HostState, _: Request) -> float:
    return sum(_free(host, name) for name in RESOURCES)


def _dot_product(host: HostState, request: Request) -> float:
    capacity = host.inventory.capacity()
    return sum(_free(host, name) * getattr(request.resources, name) / getattr(capacity, name) for name in RESOURCES)


SPREAD: Final = Policy("spread")
CHOICES: Final[dict[str, Choice]] = {
    "pack": by_policy(Policy("pack")),
    "best fit": by_least(_free_on_average),
    "dot product": by_least(_dot_product),
    "spread": by_policy(SPREAD),
}


def shares(shape: Resources, seed: int, choose: Choice) -> tuple[float, float]:
    """What was placed, against the volume bound and against the hosts' capacity, in the scarcest resource."""
    most, scarce = bound(shape, seed)
    amount = getattr(placed(shape, seed, choose), scarce)
    capacity = HOSTS * getattr(fleet(shape)[0].inventory.capacity(), scarce)
    return amount / getattr(most, scarce), amount / capacity


def main() -> None:
    print(f"{HOSTS} hosts, {SEEDS} seeds, % of the volume bound at the first refusal")
    for label, shape in SHAPES.items():
        for name, choose in CHOICES.items():
            of_bound, of_capacity = zip(*(shares(shape, seed, choose) for seed in range(SEEDS)), strict=True)
            print(
                f"{label:<8}{name:<12} median {100 * statistics.median(of_bound):6.2f}  min {100 * min(of_bound):6.2f}"
                f"   of capacity: median {100 * statistics.median(of_capacity):6.2f}  min {100 * min(of_capacity):6.2f}"
            )
            if name == "pack":
                print("        by seed: " + " ".join(f"{100 * share:.1f}" for share in of_bound))


if __name__ == "__main__":
    main()
