"""Badly balanced clusters in the form `cluster/1`, and a judge of plans for them that shares no code with the planner."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

# vCPUs, MiB, weight
_FLAVORS: Final = (
    (1, 2048, 25), (2, 4096, 30), (2, 8192, 18), (4, 8192, 12), (4, 16384, 8), (8, 16384, 4), (8, 32768, 3),
)  # fmt: skip
_RESERVED_MIB: Final = 4096
_VCPU_RATIO: Final = 4.0
_FULL: Final = 0.7

Json = dict[str, Any]


def cluster(hosts: int, guests: int, seed: int, *, uneven: bool = False, busy: float = 1.0) -> Json:
    """Hosts of log-normal popularity, a tenth of them new and empty, 70 % of memory taken, 6 % of guests in groups of 2 to 5.

    `busy` scales the loads, which are beta-distributed around a quarter; `uneven` doubles four hosts in ten.
    A guest that finds no room in 50 tries is left out.
    """
    dice = random.Random(seed)
    flavors = dice.choices(_FLAVORS, [weight for *_, weight in _FLAVORS], k=guests)
    sizes = [dice.choice((1, 1, 1, 2, 2)) if uneven else 1 for _ in range(hosts)]
    vcpus, memory = sum(f[0] for f in flavors), sum(f[1] for f in flavors)
    threads = max(8, round(vcpus / sum(sizes)))
    per_host = max(32768, int(memory / sum(sizes) / _FULL))
    nodes = [
        {"name": f"n{row:04}", "vcpus": threads * size, "memory_mib": per_host * size + _RESERVED_MIB,
         "reserved_mib": _RESERVED_MIB, "disk_gib": 1100 * size}
        for row, size in enumerate(sizes)
    ]  # fmt: skip
    popular = [dice.lognormvariate(0.0, 0.6) for _ in range(hosts)]
    for row in dice.sample(range(hosts), hosts // 10):
        popular[row] = 0.0
    groups, grouped = list[str | None](), max(0, int(guests * 0.06))
    while len(groups) < grouped:
        groups += [f"g{len(groups):05}"] * dice.randint(2, 5)
    groups += [None] * (guests - len(groups))
    dice.shuffle(groups)
    state, instances = _State(nodes, ()), list[Json]()
    for number, ((cpus, mib, _), group) in enumerate(zip(flavors, groups, strict=False)):
        load = round(min(1.0, busy * dice.betavariate(1.5, 4.5)), 4)
        row = {"name": f"i{number:05}", "vcpus": cpus, "memory_mib": mib, "disk_gib": 20 * cpus, "load": load,
               "tenant": f"t{number % 7}", "group": group}  # fmt: skip
        for name in (node["name"] for node in dice.choices(nodes, popular, k=50)):
            if state.why_not(row, name) is None:
                instances.append(row | {"node": name})
                state.put(row, name, 1)
                break
    limits = {"vcpu_ratio": _VCPU_RATIO, "shared_storage": True}
    return {"format": "cluster/1", "seed": seed, "nodes": nodes, "instances": instances, "limits": limits}


class _State:
    """Sums per host, by the plainest means."""

    def __init__(self, nodes: Iterable[Json], instances: Iterable[Json]) -> None:
        self.nodes = {node["name"]: node for node in nodes}
        self.memory, self.vcpus, self.cores = Counter[str](), Counter[str](), dict.fromkeys(self.nodes, 0.0)
        self.members = Counter[tuple[str, str]]()
        for instance in instances:
            self.put(instance, instance["node"], 1)

    def put(self, instance: Mapping[str, Any], host: str, sign: int) -> None:
        self.memory[host] += sign * instance["memory_mib"]
        self.vcpus[host] += sign * instance["vcpus"]
        self.cores[host] += sign * instance["vcpus"] * instance["load"]
        if instance["group"] is not None:
            self.members[instance["group"], host] += sign

    def why_not(self, instance: Mapping[str, Any], host: str) -> str | None:
        node = self.nodes[host]
        if self.memory[host] + instance["memory_mib"] > node["memory_mib"] - node["reserved_mib"]:
            return "memory"
        if self.vcpus[host] + instance["vcpus"] > node["vcpus"] * _VCPU_RATIO:
            return "vcpus"
        return "group" if instance["group"] is not None and self.members[instance["group"], host] else None

    def loads(self) -> dict[str, float]:
        return {name: self.cores[name] / node["vcpus"] for name, node in self.nodes.items()}

    def score(self) -> float:
        rows = self.nodes.items()
        free = [(n["memory_mib"] - n["reserved_mib"] - self.memory[name]) / n["memory_mib"] for name, n in rows]
        vcpus = [self.vcpus[name] / n["vcpus"] for name, n in rows]
        conflicts = sum(count - 1 for count in self.members.values() if count > 1)
        return sum(map(statistics.pstdev, (free, vcpus, list(self.loads().values())))) + 2.0 * conflicts


def judge(data: Json, moves: Iterable[Mapping[str, str]]) -> _State:
    """Carry the moves out one by one and return what comes of it. Raises AssertionError at the first illegal one."""
    state = _State(data["nodes"], data["instances"])
    where = {instance["name"]: instance["node"] for instance in data["instances"]}
    by_name = {instance["name"]: instance for instance in data["instances"]}
    for number, move in enumerate(moves):
        name, source, target = move["instance"], move["from"], move["to"]
        assert where[name] == source != target, f"move {number}: {name} is on {where[name]}, not {source}"
        why = state.why_not(by_name[name], target)
        assert why is None, f"move {number}: {target} has no room for {name}: {why}"
        state.put(by_name[name], source, -1)
        state.put(by_name[name], target, 1)
        where[name] = target
    return state


def judge_times(data: Json, moves: Sequence[Mapping[str, Any]], *, rate: float, leaving: int, coming: int) -> float:
    """Carry timed moves out and return the seconds until the last ends. Raises AssertionError for what is not allowed.

    From its start to its end a move takes room on both hosts, and counts for its group on both. What ends when another
    starts has ended before. Over no span of time a link carries more than its rate (MiB/s, each way); times may be rounded to 1 ms.
    """
    state = _State(data["nodes"], data["instances"])
    where = {instance["name"]: instance["node"] for instance in data["instances"]}
    by_name = {instance["name"]: instance for instance in data["instances"]}
    running = Counter[tuple[str, str]]()
    carried = defaultdict[tuple[str, str], list[tuple[float, float, float]]](list)
    events = []
    for number, move in enumerate(moves):
        events += [(move["end"], 0, number, move), (move["start"], 1, number, move)]
        for link in (("out", move["from"]), ("in", move["to"])):
            carried[link].append((move["start"], move["end"], by_name[move["instance"]]["memory_mib"] / rate))
    for _, starts, number, move in sorted(events, key=lambda event: event[:3]):
        name, source, target = move["instance"], move["from"], move["to"]
        if starts:
            assert where[name] == source != target, f"move {number}: {name} is {where[name]}, not on {source}"
            why = state.why_not(by_name[name], target)
            assert why is None, f"move {number}: {target} has no room for {name}: {why}"
            state.put(by_name[name], target, 1)
            where[name] = "on its way"
            running["out", source] += 1
            running["in", target] += 1
            assert running["out", source] <= leaving, f"move {number}: too many leave {source}"
            assert running["in", target] <= coming, f"move {number}: too many come to {target}"
        else:
            assert where[name] == "on its way", f"move {number}: {name} ends before it starts"
            state.put(by_name[name], source, -1)
            where[name] = target
            running["out", source] -= 1
            running["in", target] -= 1
    for link, spans in carried.items():
        for since in {start for start, _, _ in spans}:
            busy = 0.0
            for start, end, seconds in sorted(spans, key=lambda span: span[1]):
                busy += seconds if start >= since else 0.0
                assert busy <= end - since + 2e-3 or start < since, f"{link} carries too much by {end}"
    return max((move["end"] for move in moves), default=0.0)
