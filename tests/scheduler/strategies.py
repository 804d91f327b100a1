"""Hypothesis strategies. Values are small and few on purpose: ties, full hosts and exact fits must be common.

`CENOTE_TEST_EXAMPLES` sets how many cases each property is tried on (80 unless told; thousands for a long run).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from compute.scheduler.model import NOT_SAID, WEIGHER_NAMES, HostState, Inventory, Policy, Request, Resources
from compute.scheduler.topology import Cell, NumaAsk

# Cores are shared by many tests: a slow example says nothing about the scheduler, so there is no deadline.
counted = settings(
    max_examples=int(os.environ.get("CENOTE_TEST_EXAMPLES", "80")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

POOLS = ("pool-a", "pool-b")
TRAITS = ("numa", "ssd")
GROUPS = ("blue", "green")
CPU_MODELS = ("old", "new")
CPU_FLAGS = ("aes", "avx2")
NETWORKS = ("net-a", "net-b")
STORAGES = ("store-a",)
IMAGES = ("image-a", "image-b")
DOMAINS = ("", "rack-1", "rack-2")
IDS = tuple(f"host-{letter}" for letter in "abcdefgh")


def amounts(*, most: int = 12, least: int = 0) -> st.SearchStrategy[Resources]:
    one = st.integers(least, most)
    return st.builds(Resources, vcpus=one, memory_mib=one, disk_gib=one)


def mostly(items: Sequence[str]) -> st.SearchStrategy[frozenset[str]]:
    """All of the items, or now and then fewer."""
    return st.just(frozenset(items)) | st.frozensets(st.sampled_from(items))


def seldom(items: Sequence[str]) -> st.SearchStrategy[frozenset[str]]:
    """None of the items, or now and then some."""
    return st.just(frozenset[str]()) | st.frozensets(st.sampled_from(items), max_size=1)


unsaid = st.just(frozenset({NOT_SAID}))
ratios = st.sampled_from([1.0, 1.15, 1.5, 2.0, 16.0, 0.3])

inventories = st.builds(
    Inventory,
    total=amounts(),
    reserved=amounts(most=3),
    vcpu_ratio=ratios,
    memory_ratio=ratios,
    disk_ratio=ratios,
)


cell_amounts = st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 8), st.integers(0, 8))


def numbered(amounts: Sequence[tuple[int, int, int, int]]) -> tuple[Cell, ...]:
    """Cells with so many CPUs of one's own, shared CPUs, MiB and pages of 1 MiB."""
    return tuple(
        Cell(number, tuple(range(10 * number, 10 * number + cpus)), shared, memory, ((1024, pages),))
        for number, (cpus, shared, memory, pages) in enumerate(amounts)
    )


numa_asks = st.builds(
    NumaAsk,
    nodes=st.sampled_from([1, 1, 2]),
    vcpus=st.sampled_from([2, 4]),
    memory_mib=st.sampled_from([2, 8]),
    page_kib=st.sampled_from([0, 1024]),
    pinned=st.booleans(),
)


@st.composite
def host_states(draw: st.DrawFn, *, host_id: str, in_service: bool = False) -> HostState:
    states = st.just("enabled") if in_service else st.sampled_from(["enabled", "enabled", "draining", "disabled"])
    observed = st.just("up") if in_service else st.sampled_from(["up", "up", "up", "down"])
    return HostState(
        id=host_id,
        name=f"name-of-{host_id}",
        pool_id=draw(st.sampled_from(POOLS)),
        inventory=draw(inventories),
        used=draw(amounts(most=9)),  # may be more than the capacity: a host that shrank
        instances=draw(st.integers(0, 3)),
        admin_state=draw(states),
        observed_state=draw(observed),
        modes=draw(st.sampled_from([frozenset({"kvm", "lxc"}), frozenset({"qemu"}), frozenset({"lxc"}), frozenset()])),
        traits=draw(st.frozensets(st.sampled_from(TRAITS))),
        load=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.7, -0.2])),
        group_counts=draw(st.dictionaries(st.sampled_from(GROUPS), st.integers(0, 3))),
        cpu_models=draw(seldom(CPU_MODELS) | st.just(frozenset(CPU_MODELS))),
        cpu_flags=draw(mostly(CPU_FLAGS)),
        networks=draw(mostly(NETWORKS) | unsaid),
        storages=draw(mostly(STORAGES) | unsaid),
        images=draw(st.frozensets(st.sampled_from(IMAGES))),
        failure_domain=draw(st.sampled_from(DOMAINS)),
        cells=draw(st.just(()) | st.lists(cell_amounts, max_size=3).map(numbered)),
    )


@st.composite
def fleets(draw: st.DrawFn, *, least: int = 0, in_service: bool = False) -> list[HostState]:
    """Hosts with different ids, in any order."""
    ids = draw(st.lists(st.sampled_from(IDS), unique=True, min_size=least))
    return [draw(host_states(host_id=host_id, in_service=in_service)) for host_id in ids]


requests = st.builds(
    Request,
    kind=st.sampled_from(["vm", "container"]),
    resources=amounts(),
    pool_id=st.sampled_from([None, None, *POOLS]),
    required_traits=st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"ssd"}), frozenset(TRAITS)]),
    forbidden_traits=st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"numa"})]),
    forbidden_hosts=st.sampled_from([frozenset[str](), frozenset[str](), frozenset(IDS[:2])]),
    target_host=st.sampled_from([None, None, None, IDS[0], "host-unknown"]),
    group=st.sampled_from([None, None, *GROUPS]),
    group_rule=st.sampled_from(["anti_affinity", "soft_anti_affinity", "soft_affinity", "affinity"]),
    virt_mode=st.sampled_from([None, None, "kvm", "lxc"]),
    cpu_models=seldom(CPU_MODELS),
    cpu_flags=seldom(CPU_FLAGS),
    networks=seldom(NETWORKS),
    storages=seldom(STORAGES),
    image=st.sampled_from([None, *IMAGES, "image-nobody-has"]),
    group_started=st.booleans(),
    domain_limit=st.sampled_from([None, None, 0, 1, 2]),
    domain_members=st.dictionaries(st.sampled_from(["rack-1", "rack-2", "rack-elsewhere"]), st.integers(0, 2)),
    exposed_hosts=st.sampled_from([frozenset[str](), frozenset[str](), frozenset(IDS[1:3])]),
    numa=st.none() | st.none() | numa_asks,
)


@st.composite
def demands(draw: st.DrawFn) -> tuple[list[HostState], Request]:
    """Hosts in service with some room each, and a request that is mostly too much for them in one way or several."""
    room = st.builds(Resources, st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
    traits = st.frozensets(st.sampled_from(TRAITS))
    groups = st.sampled_from([{}, {"blue": 1}])
    modes = st.sampled_from([frozenset({"kvm", "qemu"}), frozenset({"qemu"}), frozenset({"lxc"})])
    hosts = [
        HostState(
            id=host_id,
            name=f"name-of-{host_id}",
            pool_id=draw(st.sampled_from(POOLS)),
            inventory=Inventory(total=Resources(8, 8, 8), reserved=Resources(0, 0, 0)),
            used=Resources(8, 8, 8) - draw(room),
            instances=0,
            admin_state="enabled",
            observed_state=draw(st.sampled_from(["up", "up", "up", "down"])),
            modes=draw(modes),
            traits=draw(traits),
            group_counts=draw(groups),
            cpu_models=draw(seldom(CPU_MODELS) | st.just(frozenset(CPU_MODELS))),
            cpu_flags=draw(mostly(CPU_FLAGS)),
            failure_domain=draw(st.sampled_from(DOMAINS)),
        )
        for host_id in draw(st.lists(st.sampled_from(IDS), unique=True, min_size=2))
    ]
    request = Request(
        kind="vm",
        resources=draw(st.builds(Resources, *[st.integers(0, 8)] * 3)),
        pool_id=draw(st.sampled_from([None, *POOLS])),
        required_traits=draw(traits),
        target_host=draw(st.sampled_from([None, None, hosts[0].id])),
        group=draw(st.sampled_from([None, "blue"])),
        group_rule=draw(st.sampled_from(["anti_affinity", "anti_affinity", "affinity"])),
        virt_mode=draw(st.sampled_from([None, None, "kvm"])),
        cpu_models=draw(seldom(CPU_MODELS)),
        cpu_flags=draw(seldom(CPU_FLAGS)),
        group_started=draw(st.booleans()),
        domain_limit=draw(st.sampled_from([None, None, None, 1, 2])),
        domain_members=draw(st.dictionaries(st.sampled_from(["rack-1", "rack-2"]), st.integers(0, 2))),
    )
    return hosts, request


policies = st.builds(
    Policy,
    name=st.sampled_from(["spread", "pack"]),
    weights=st.dictionaries(st.sampled_from(WEIGHER_NAMES), st.sampled_from([0.0, 1.0, -1.0, 0.1, 1 / 3, 7.5])),
)


def shuffled(hosts: Sequence[HostState]) -> st.SearchStrategy[list[HostState]]:
    return st.permutations(list(hosts))
