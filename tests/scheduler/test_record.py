"""Stored records: small, equal for equal rankings, and saying the same as the ranking that they keep."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.capacity import room
from compute.scheduler.filters import FILTERS, failing
from compute.scheduler.model import RESOURCES, HostState, Policy, Request
from compute.scheduler.ranking import rank
from compute.scheduler.record import KEPT, Record, RecordError, pack, roster, roster_digest, unpack
from compute.scheduler.snapshot import Snapshot
from compute.scheduler.topology import MEASURES
from compute.scheduler.topology import room as cells_room
from tests.factories.scheduler import host, request, resources
from tests.scheduler.strategies import counted, fleets, policies, requests

SPREAD = Policy("spread")


def _kept(hosts: Sequence[HostState], wanted: Request, policy: Policy) -> Record:
    return unpack(pack(rank(hosts, wanted, policy), wanted))


@counted
@given(fleets(), requests, policies)
def test_a_record_says_what_its_ranking_said(hosts: list[HostState], wanted: Request, policy: Policy) -> None:
    ranking, record = rank(hosts, wanted, policy), _kept(hosts, wanted, policy)
    by_id = {one.id: one for one in hosts}
    looked_at = [by_id[host_id] for host_id in roster(ranking)]
    assert len(record.failing) == len(looked_at)
    for one, names in zip(looked_at, record.failing, strict=True):
        bits = failing(one, wanted)
        assert names == tuple(item.name for bit, item in enumerate(FILTERS) if bits >> bit & 1)
    assert [(looked_at[row.place].id, row.score, dict(row.points)) for row in record.best] == [
        (one.host_id, one.score, dict(one.contributions)) for one in ranking.candidates[:KEPT]
    ]
    for row in (*record.best, *record.closest):
        one = looked_at[row.place]
        capacity = one.inventory.capacity()
        free = {name: room(getattr(capacity, name), getattr(one.used, name)) for name in RESOURCES}
        if wanted.numa is not None:
            found = {measure: cells_room(one.cells, wanted.numa, measure) for measure in MEASURES}
            free |= {measure: item.free for measure, item in found.items() if item is not None}
        assert row.free == free
    assert {looked_at[row.place].id for row in record.closest} <= {refusal.host_id for refusal in ranking.refusals}
    assert len(record.closest) == min(KEPT, len(ranking.refusals))


@counted
@given(fleets(), requests, policies, st.randoms())
def test_the_order_of_hosts_does_not_show(
    hosts: list[HostState], wanted: Request, policy: Policy, dice: random.Random
) -> None:
    mixed = list(hosts)
    dice.shuffle(mixed)
    snapshot = Snapshot.from_hosts(mixed)
    there = pack(rank(hosts, wanted, policy), wanted)
    assert pack(rank(snapshot, wanted, policy), wanted) == there


def test_the_closest_lack_one_thing_and_little_of_it() -> None:
    hosts = [
        host("a", used=resources(8, 8192, 0)),
        host("b", used=resources(8, 0, 0)),
        host("c", used=resources(7, 0, 0)),
        host("d", admin_state="draining", used=resources(8, 0, 0)),
    ]
    record = _kept(hosts, request(vcpus=2), SPREAD)
    assert [row.place for row in record.closest] == [2, 1, 3, 0]


def test_only_the_best_and_the_closest_are_kept_of_many() -> None:
    hosts = [host(f"host-{number:04}", used=resources(number % 9)) for number in range(5000)]
    ranking = rank(hosts, request(), SPREAD)
    data = pack(ranking, request())
    record = unpack(data)
    assert (len(record.best), len(record.closest), len(record.failing)) == (KEPT, KEPT, 5000)
    assert sum(bool(names) for names in record.failing) == len(ranking.refusals) == 555
    assert len(data) < 3000


def test_no_hosts_are_a_record_too() -> None:
    assert _kept([], request(), SPREAD) == Record((), (), ())


def test_rosters_are_told_apart() -> None:
    assert len({roster_digest(ids) for ids in (("a", "b"), ("ab",), ("b", "a"), (), ("a",))}) == 5


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x01", b"\x01junk", bytes([99]) + b"x"])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        unpack(data)
