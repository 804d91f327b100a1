"""The values that scheduling works on. Frozen: a snapshot that changed would make its ranking a lie.

Units: CPU in vCPU, memory in MiB, disk in GiB; `load` is the busy share of a host's CPU (0 idle, 1 fully busy).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, get_args

from compute.scheduler.topology import Cell, NumaAsk
from compute.wire import Kind, VirtMode

if TYPE_CHECKING:
    from compute.scheduler.snapshot import Snapshot

Resource = Literal["vcpus", "memory_mib", "disk_gib"]
GroupRule = Literal["anti_affinity", "soft_anti_affinity", "soft_affinity", "affinity"]

RESOURCES: Final[tuple[Resource, ...]] = get_args(Resource)
# Among what a host reaches: it has not said, so it refuses nobody for that.
NOT_SAID: Final = ""
UNITS: Final[Mapping[Resource, str]] = {"vcpus": "vCPU", "memory_mib": "MiB", "disk_gib": "GiB"}

# What an instance of each kind can run on: one of these modes is enough.
MODES_OF_KIND: Final[Mapping[Kind, frozenset[VirtMode]]] = {
    "vm": frozenset({"kvm", "qemu"}),
    "container": frozenset({"lxc"}),
}


@dataclass(frozen=True, slots=True)
class Resources:
    """Amounts of what hosts offer and instances take. Differences may be negative."""

    vcpus: int
    memory_mib: int
    disk_gib: int

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.vcpus + other.vcpus, self.memory_mib + other.memory_mib, self.disk_gib + other.disk_gib)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(self.vcpus - other.vcpus, self.memory_mib - other.memory_mib, self.disk_gib - other.disk_gib)

    def __mul__(self, times: int) -> Resources:
        return Resources(self.vcpus * times, self.memory_mib * times, self.disk_gib * times)

    def __le__(self, other: Resources) -> bool:
        """Each amount is at most the other's. A partial order: of two values neither may be `<=` the other."""
        return self.vcpus <= other.vcpus and self.memory_mib <= other.memory_mib and self.disk_gib <= other.disk_gib


@lru_cache(maxsize=1024)
def _exact(ratio: float) -> tuple[int, int]:
    """Return the ratio as its operator wrote it: numerator, denominator. Raises ValueError unless finite and >= 0."""
    fraction = Fraction(repr(float(ratio)))
    if fraction < 0:
        raise ValueError(f"an overcommit ratio cannot be negative: {ratio}")
    return fraction.numerator, fraction.denominator


def _scaled(total: int, reserved: int, ratio: float) -> int:
    numerator, denominator = _exact(ratio)
    return max(0, total - reserved) * numerator // denominator


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a host has, what is kept back for the host itself, and how far each resource may be overcommitted."""

    total: Resources
    reserved: Resources
    vcpu_ratio: float = 1.0
    memory_ratio: float = 1.0
    disk_ratio: float = 1.0

    def capacity(self) -> Resources:
        """Return floor((total - reserved) x ratio) per resource, OpenStack Placement's formula; never below 0.

        Worked out in whole numbers: with floats 100 x 1.15 would be 114.99 and lose a unit that the operator granted.
        Raises ValueError for a ratio that is negative or not finite.
        """
        return Resources(
            _scaled(self.total.vcpus, self.reserved.vcpus, self.vcpu_ratio),
            _scaled(self.total.memory_mib, self.reserved.memory_mib, self.memory_ratio),
            _scaled(self.total.disk_gib, self.reserved.disk_gib, self.disk_ratio),
        )


@dataclass(frozen=True, slots=True)
class HostState:
    """One host as a snapshot saw it. `used` counts what is set aside for promises as well.

    `group_counts`: group id -> how many of its members are on this host.

    `cpu_models` and `cpu_flags` are what a VM can be given there. `networks` and `storages` are the ids of what the host
    reaches (NOT_SAID among them: taken to reach all), `images` those that it has already;
    `cells`: its NUMA cells with what is free in them;
    `failure_domain` names what fails together (a rack, a power feed), "" where nobody has said.
    A host whose load is not known has `load` 0.0; ValueError for one that is not finite, which would sort anywhere.
    """

    id: str
    name: str
    pool_id: str
    inventory: Inventory
    used: Resources
    instances: int
    admin_state: str
    observed_state: str
    modes: frozenset[str]
    traits: frozenset[str] = frozenset()
    load: float = 0.0
    group_counts: Mapping[str, int] = field(default_factory=dict, hash=False)
    cpu_models: frozenset[str] = frozenset()
    cpu_flags: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    storages: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    failure_domain: str = ""
    cells: tuple[Cell, ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.load):
            raise ValueError(f"host {self.id}: load {self.load}")

    def lending(self, amount: Resources) -> HostState:
        """Return the host as one sees it for whom `amount` of its used room is kept: that much less is used."""
        return replace(self, used=self.used - amount)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed, once. `pool_id` None: any pool. `virt_mode` None: any mode that suits the kind.

    `group` with `group_rule`: `anti_affinity` refuses hosts that carry a member, `affinity` those that carry none once
    the group has members (`group_started`); the soft rules only weigh. `domain_limit`: at most so many members of the
    group in one failure domain; `domain_members`: how many there are. Both come with the request, and not from the
    hosts looked at, so that one more host cannot turn a success into a refusal.
    `exposed_hosts`: with the request on one of these a loss of hosts could not be absorbed (`losses.Losses.exposed`).
    `cpu_models`: one of these; of `cpu_flags`, `networks` and `storages` the host must have or reach all.
    `numa`: what it asks beyond amounts. CPUs and huge pages that it gets for itself are not among `resources`.
    """

    kind: Kind
    resources: Resources
    pool_id: str | None = None
    required_traits: frozenset[str] = frozenset()
    forbidden_traits: frozenset[str] = frozenset()
    forbidden_hosts: frozenset[str] = frozenset()
    target_host: str | None = None
    group: str | None = None
    group_rule: GroupRule = "anti_affinity"
    virt_mode: VirtMode | None = None
    cpu_models: frozenset[str] = frozenset()
    cpu_flags: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    storages: frozenset[str] = frozenset()
    image: str | None = None
    group_started: bool = False
    domain_limit: int | None = None
    domain_members: Mapping[str, int] = field(default_factory=dict, hash=False)
    exposed_hosts: frozenset[str] = frozenset()
    numa: NumaAsk | None = None

    @property
    def size(self) -> Resources:
        """What it is to its tenant, and charged for: shared and dedicated together."""
        if self.numa is None:
            return self.resources
        dedicated = Resources(
            self.numa.vcpus if self.numa.pinned else 0, self.numa.memory_mib if self.numa.page_kib else 0, 0
        )
        return self.resources + dedicated


WEIGHER_NAMES: Final = ("spread", "pack", "load", "affinity", "domain", "image")

# weigher -> weight, by the policy's name. Weighers give 0..1, so weights compare directly.
POLICY_WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    "spread": {"spread": 1.0, "load": 0.5, "affinity": 2.0, "domain": 1.0, "image": 0.2},
    # Not by load: a full host is a busy one, and what decides between two shapes are hundredths.
    "pack": {"pack": 1.0, "affinity": 2.0, "domain": 1.0, "image": 0.02},
}


@dataclass(frozen=True, slots=True)
class Policy:
    """How candidates are weighed. `weights` changes single weights of the named policy; a weight of 0 turns one off."""

    name: str = "spread"
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.name not in POLICY_WEIGHTS:
            raise ValueError(f"unknown policy {self.name!r}; known: {', '.join(sorted(POLICY_WEIGHTS))}")
        for weigher, weight in self.weights.items():
            if weigher not in WEIGHER_NAMES or not math.isfinite(weight):
                raise ValueError(f"weigher {weigher!r}, weight {weight}; known: {', '.join(WEIGHER_NAMES)}")

    def weight(self, weigher: str) -> float:
        """Return the weight of one weigher; 0.0 for one that the policy does not use."""
        return self.weights.get(weigher, POLICY_WEIGHTS[self.name].get(weigher, 0.0))


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One resource that does not fit. `margin` = `free` - `asked`, below 0. `free` is below 0 on a shrunken host."""

    resource: Resource
    asked: int
    free: int
    margin: int
    unit: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that can take the request. `contributions`: weigher -> weight x value; they sum up to `score`."""

    host_id: str
    score: float
    contributions: Mapping[str, float] = field(hash=False)
    host_name: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A host that cannot take the request. `filter` is the first that refused, `also` all the others that would.

    Capacity filters fill `asked`, `free`, `margin`, `unit`; the others say in `seen` what they saw (`draining`, ...).
    """

    host_id: str
    filter: str
    asked: int | None = None
    free: int | None = None
    margin: int | None = None
    unit: str | None = None
    seen: str = ""
    also: tuple[str, ...] = ()
    host_name: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why `hosts` hosts were refused, told once: they share the first filter and, for states, the state in `seen`.

    Capacity filters fill `asked`, `unit` and `free`, the largest room that any of these hosts has.
    """

    filter: str
    hosts: int
    seen: str = ""
    asked: int | None = None
    free: int | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every host once: `candidates` best first, `refusals` by host id; `tally`: (filter, hosts) in filter order.

    `reasons` splits the tally further. The sequences may be lazy (made on access); they equal tuples of the same items.
    `source` is what was ranked; `failing`: what each host of a snapshot fails, as bits, row by row.
    """

    candidates: Sequence[Candidate]
    refusals: Sequence[Refusal]
    tally: tuple[tuple[str, int], ...]
    reasons: tuple[Reason, ...] = ()
    source: Snapshot | Sequence[HostState] = field(default=(), compare=False, repr=False)
    failing: Sequence[int] = field(default=(), compare=False, repr=False)
