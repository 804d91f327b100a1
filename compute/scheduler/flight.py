"""The flight recorder's file: hosts as decisions saw them, and the decisions, as JSON lines; and its replay.

Lines, in this order of kinds:

    {"kind": "flight", "version": 1}                                            once, first
    {"kind": "frame", "id", "parent", "hosts": [...], "gone": [...]}            hosts that differ from the parent's; a parent
                                                                                of null: all of them
    {"kind": "decision", "id", "at", "outcome", "name", "count", "frame", "request", "policy", "weights", "record",
     "passed_over", "host", "plan"}                                                   `record` in base64 (compute.scheduler.record)

A frame stands before the frames and decisions that name it. Unknown members are passed over.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from compute.scheduler.batch import plan_batch
from compute.scheduler.dump import DumpError, plain, read_host, read_request
from compute.scheduler.model import RESOURCES, WEIGHER_NAMES, HostState, Policy, Request, Resources
from compute.scheduler.ranking import rank
from compute.scheduler.record import RecordError, pack, unpack
from compute.scheduler.snapshot import Snapshot

FLIGHT_VERSION: Final = 1

Hosts = Mapping[str, HostState]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision as recorded, and as the same hosts, request and policy (or another) give it now.

    `same`: the record is equal bit for bit, and the recorded host is the one that the ranking now names in its place.
    Hosts are named; "" for a refusal.
    """

    id: str
    at: str
    name: str
    same: bool
    recorded: str
    now: str


@dataclass(slots=True)
class Side:
    """What one policy made of the decisions: how many it `refused`; by host name the placements, and how full it got."""

    refused: int = 0
    placed: Counter[str] = field(default_factory=Counter)
    fullest: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """A replay. `missing`: decisions whose hosts are not in the file."""

    decisions: tuple[Replayed, ...]
    recorded: Side
    now: Side
    missing: int

    @property
    def same(self) -> bool:
        return not self.missing and all(decision.same for decision in self.decisions)


def frame_between(before: Hosts | None, now: Hosts) -> dict[str, Any]:
    """Return what makes `now` of `before`, as JSON data; all of it where there is nothing before.

    Hosts that are the very same objects are not compared, which makes a frame of thousands cheap.
    """
    known = before or {}
    changed = [host for key, host in now.items() if (old := known.get(key)) is not host and old != host]
    return {
        "hosts": [plain(host) for host in sorted(changed, key=lambda host: host.id)],
        "gone": sorted(known.keys() - now.keys()),
    }


def apply_frame(before: Hosts, frame: Mapping[str, Any]) -> dict[str, HostState]:
    """Return the hosts after the frame."""
    gone = set(frame["gone"])
    now = {key: host for key, host in before.items() if key not in gone}
    now |= {host["id"]: read_host(host) for host in frame["hosts"]}
    return now


def replay(lines: Iterable[Mapping[str, Any]], *, policy: Policy | None = None) -> Report:
    """Rank every decision of a flight again. Raises DumpError for what is no flight.

    Under its own policy each decision meets its hosts as they were. Another `policy` meets them as they would have been:
    what it placed elsewhere stays there and is missing where it was. Guests that went away are not followed, so the
    longer the flight, the rougher that comparison.
    """
    entries = iter(lines)
    head = next(entries, {})
    if not isinstance(head, Mapping) or (head.get("kind"), head.get("version")) != ("flight", FLIGHT_VERSION):
        raise DumpError(f"not a flight of version {FLIGHT_VERSION}")
    frames: dict[str, dict[str, HostState]] = {}
    flight = _Flight(policy)
    missing = 0
    try:
        for entry in entries:
            if entry["kind"] == "frame" and (entry["parent"] is None or entry["parent"] in frames):
                frames[entry["id"]] = apply_frame(frames.get(entry["parent"], {}), entry)
            elif entry["kind"] == "decision" and entry["frame"] in frames:
                flight.meet(entry, frames[entry["frame"]])
            elif entry["kind"] == "decision":
                missing += 1
    except (KeyError, TypeError, ValueError) as error:
        raise DumpError(f"not a flight: {error!r}") from None
    return Report(tuple(flight.decisions), flight.recorded, flight.now, missing)


@dataclass(slots=True)
class _Flight:
    """A replay under way. `moved`: host id -> what the other policy has there more (below 0: less) than was recorded."""

    policy: Policy | None
    decisions: list[Replayed] = field(default_factory=list)
    recorded: Side = field(default_factory=Side)
    now: Side = field(default_factory=Side)
    moved: dict[str, Resources] = field(default_factory=dict)

    def meet(self, entry: Mapping[str, Any], hosts: Hosts) -> None:
        request = read_request(entry["request"])
        weights = {name: float(entry["weights"].get(name, 0.0)) for name in WEIGHER_NAMES}
        policy = self.policy or Policy(entry["policy"], weights)
        as_it_was = Snapshot.from_hosts(hosts.values())
        snapshot = Snapshot.from_hosts(self._as_moved(host) for host in hosts.values()) if self.moved else as_it_was
        ranking = rank(snapshot, request, policy)
        placed = entry["outcome"] == "placed"
        before = (entry["plan"] or [entry["host"]]) if placed else []
        if entry["count"] > 1:
            now = list(plan_batch(snapshot, request, policy, entry["count"]).hosts)
            first = now[:1]
        else:
            now = [candidate.host_id for candidate in ranking.candidates[:1]]
            first = [candidate.host_id for candidate in ranking.candidates[entry["passed_over"] :][:1]]
        self._tell(self.recorded, before, as_it_was, request)
        self._tell(self.now, now, snapshot, request)
        if self.policy is not None:
            self._move(before, -1, request)
            self._move(now, 1, request)
        same = _equal(base64.b64decode(entry["record"]), pack(ranking, request))
        # Whether the hosts refused is the ranking's own word; a quota refuses what they would have taken.
        same = same and (first == before[:1] or not placed)
        names = {host.id: host.name for host in hosts.values()}
        self.decisions.append(
            Replayed(
                id=entry["id"],
                at=entry["at"],
                name=entry["name"],
                same=same,
                recorded=names.get(before[0], before[0]) if before else "",
                now=names.get(now[0], now[0]) if now else "",
            )
        )

    def _as_moved(self, host: HostState) -> HostState:
        more = self.moved.get(host.id)
        if more is None:
            return host
        used = host.used + more
        return replace(host, used=Resources(*(max(0, getattr(used, name)) for name in RESOURCES)))

    def _move(self, hosts: Iterable[str], sign: int, request: Request) -> None:
        for host_id in hosts:
            before = self.moved.get(host_id, Resources(0, 0, 0))
            self.moved[host_id] = before + request.resources * sign

    def _tell(self, side: Side, hosts: Sequence[str], snapshot: Snapshot, request: Request) -> None:
        side.refused += not hosts
        for host_id in hosts:
            host = snapshot.hosts[snapshot.row_of[host_id]]
            side.placed[host.name] += 1
            side.fullest[host.name] = max(side.fullest.get(host.name, 0.0), _fullness(host, request))


def _equal(kept: bytes, made: bytes) -> bool:
    """Equal by content, since another build of zlib may pack the same content into other bytes."""
    try:
        return kept == made or unpack(kept) == unpack(made)
    except RecordError:
        return False


def _fullness(host: HostState, request: Request) -> float:
    """How full the host's fullest resource is with the request on it, 1.0 is full."""
    capacity, used = host.inventory.capacity(), host.used + request.resources
    shares = [getattr(used, name) / getattr(capacity, name) for name in RESOURCES if getattr(capacity, name)]
    return max(shares, default=0.0)
