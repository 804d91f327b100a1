"""Filters, weighers and the order of candidates, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compute.scheduler.filters import FILTERS
from compute.scheduler.model import WEIGHER_NAMES, Candidate, HostState, Policy, Ranking, Reason, Refusal, Request
from compute.scheduler.ranking import rank, rank_columns, rank_hosts
from compute.scheduler.snapshot import Snapshot
from compute.scheduler.topology import Cell, NumaAsk
from compute.scheduler.weighers import WEIGHERS
from tests.factories.scheduler import host, request, resources

SPREAD, PACK = Policy("spread"), Policy("pack")


def order(ranking: Ranking) -> list[str]:
    return [candidate.host_id for candidate in ranking.candidates]


# filter -> (a host that it refuses, the request, what it says it saw)
REFUSED: dict[str, tuple[HostState, Request, str]] = {
    "pool": (host(pool_id="pool-2"), replace(request(), pool_id="pool-1"), "pool-2"),
    "target_host": (host("host-1"), replace(request(), target_host="host-2"), ""),
    "forbidden": (host("host-1"), replace(request(), forbidden_hosts=frozenset({"host-1"})), ""),
    "admin_state": (host(admin_state="draining"), request(), "draining"),
    "observed_state": (host(observed_state="down"), request(), "down"),
    "virt_mode": (host(modes=frozenset({"qemu", "kvm"})), request(kind="container"), "kvm, qemu"),
    "cpu_model": (
        replace(host(), cpu_models=frozenset({"old"})),
        replace(request(), cpu_models=frozenset({"new"})),
        "offers none of new",
    ),
    "cpu_flags": (
        replace(host(), cpu_flags=frozenset({"aes"})),
        replace(request(), cpu_flags=frozenset({"aes", "avx2"})),
        "lacks avx2",
    ),
    "traits": (
        host(traits=frozenset({"loud"})),
        replace(request(), required_traits=frozenset({"ssd"}), forbidden_traits=frozenset({"loud"})),
        "lacks ssd, has loud",
    ),
    "network": (host(), replace(request(), networks=frozenset({"net-1"})), "lacks net-1"),
    "storage": (host(), replace(request(), storages=frozenset({"store-1"})), "lacks store-1"),
    "anti_affinity": (host(group_counts={"web": 2}), replace(request(), group="web"), "2"),
    "affinity": (host(), replace(request(), group="web", group_rule="affinity", group_started=True), ""),
    "failure_domain": (
        host(failure_domain="rack-1"),
        replace(request(), group="web", group_rule="soft_affinity", domain_limit=2, domain_members={"rack-1": 2}),
        "rack-1 has 2",
    ),
    "capacity_vcpus": (host(used=resources(8, 0, 0)), request(), ""),
    "capacity_memory": (host(used=resources(0, 8192, 0)), request(), ""),
    "capacity_disk": (host(used=resources(0, 0, 100)), request(), ""),
    "dedicated_cpus": (
        replace(host(), cells=(Cell(0, (1, 2), 1, 4096),)),
        replace(request(), numa=NumaAsk(1, 3, 64, pinned=True)),
        "",
    ),
    "huge_pages": (
        replace(host(), cells=(Cell(0, (), 1, 4096, ((2048, 31),)),)),
        replace(request(), numa=NumaAsk(1, 1, 64, page_kib=2048)),
        "",
    ),
    "numa_memory": (replace(host(), cells=(Cell(0, (), 1, 63),)), replace(request(), numa=NumaAsk(1, 1, 64)), ""),
    "numa_cells": (replace(host(), cells=(Cell(0, (), 0, 64),)), replace(request(), numa=NumaAsk(1, 1, 64)), ""),
    "host_loss": (host("host-1"), replace(request(), exposed_hosts=frozenset({"host-1"})), ""),
}


def test_every_filter_has_a_case_here() -> None:
    assert list(REFUSED) == [item.name for item in FILTERS]


@pytest.mark.parametrize("name", REFUSED)
def test_filter_refuses_by_its_name_and_says_what_it_saw(name: str) -> None:
    refused, wanted, seen = REFUSED[name]
    for ranking in (
        rank_hosts([refused], wanted, SPREAD),
        rank_columns(Snapshot.from_hosts([refused]), wanted, SPREAD),
    ):
        (refusal,) = ranking.refusals
        assert (refusal.filter, refusal.seen, refusal.also, refusal.host_name) == (name, seen, (), "HOST-1")
        assert ranking.tally == ((name, 1),)
        assert not ranking.candidates


def test_capacity_refusal_carries_asked_free_margin_and_unit() -> None:
    (refusal,) = rank([host(used=resources(0, 7680, 0))], request(1, 1024, 1), SPREAD).refusals
    assert refusal == Refusal("host-1", "capacity_memory", 1024, 512, -512, "MiB", host_name="HOST-1")


def test_refusal_names_the_first_filter_and_all_others() -> None:
    (refusal,) = rank([host(admin_state="disabled", used=resources(8, 0, 100))], request(), SPREAD).refusals
    assert (refusal.filter, refusal.also) == ("admin_state", ("capacity_vcpus", "capacity_disk"))


def test_reasons_tell_states_apart_and_give_the_largest_room() -> None:
    hosts = [
        host("a", admin_state="draining"),
        host("b", admin_state="disabled"),
        host("c", used=resources(0, 8000, 0)),
        host("d", used=resources(0, 7680, 0)),
    ]
    assert rank(hosts, request(), SPREAD).reasons == (
        Reason("admin_state", 1, "disabled"),
        Reason("admin_state", 1, "draining"),
        Reason("capacity_memory", 2, "", 1024, 512, "MiB"),
    )


def test_container_needs_lxc_and_vm_needs_kvm_or_qemu() -> None:
    hosts = [
        host("c", modes=frozenset({"lxc"})),
        host("k", modes=frozenset({"kvm"})),
        host("q", modes=frozenset({"qemu"})),
    ]
    assert order(rank(hosts, request(kind="container"), SPREAD)) == ["c"]
    assert order(rank(hosts, request(kind="vm"), SPREAD)) == ["k", "q"]
    assert order(rank(hosts, replace(request(), virt_mode="kvm"), SPREAD)) == ["k"]


def test_spread_prefers_the_emptiest_host_and_pack_the_fullest_that_fits() -> None:
    hosts = [
        host("empty"),
        host("half", used=resources(4, 4096, 50)),
        host("nearly", used=resources(7, 7168, 90)),
        host("full", used=resources(8, 8192, 100)),
    ]
    assert order(rank(hosts, request(), SPREAD)) == ["empty", "half", "nearly"]
    assert order(rank(hosts, request(), PACK)) == ["nearly", "half", "empty"]


def test_spread_looks_at_the_resource_that_runs_out_first() -> None:
    hosts = [host("no-disk-left", used=resources(0, 0, 85)), host("even", used=resources(4, 4096, 50))]
    assert order(rank(hosts, request(), SPREAD)) == ["even", "no-disk-left"]


def test_a_shrunken_host_counts_as_full_and_not_as_fuller_than_full() -> None:
    shrunken, nothing_more = host("a", used=resources(12, 0, 0)), request(0, 1024, 10)
    for ranking in (
        rank_hosts([shrunken], nothing_more, SPREAD),
        rank_columns(Snapshot.from_hosts([shrunken]), nothing_more, SPREAD),
    ):
        assert ranking.candidates[0].contributions["spread"] == 0.0


def test_load_decides_between_hosts_that_are_equally_full() -> None:
    assert order(rank([host("busy", load=0.9), host("calm", load=0.1)], request(), SPREAD)) == ["calm", "busy"]


def test_soft_rules_prefer_but_do_not_refuse() -> None:
    hosts = [host("a", group_counts={"web": 1}), host("b")]
    wanted = replace(request(), group="web")
    assert order(rank(hosts, replace(wanted, group_rule="soft_anti_affinity"), SPREAD)) == ["b", "a"]
    assert order(rank(hosts, replace(wanted, group_rule="soft_affinity"), SPREAD)) == ["a", "b"]


def test_a_host_without_a_failure_domain_is_refused_where_domains_are_limited() -> None:
    wanted = replace(request(), group="web", group_rule="soft_affinity", domain_limit=2)
    ranking = rank([host("nowhere"), host("somewhere", failure_domain="rack-1")], wanted, SPREAD)
    assert order(ranking) == ["somewhere"]
    assert ranking.refusals[0].seen == "has none"


def test_the_first_member_of_a_group_that_shares_a_host_may_go_anywhere() -> None:
    wanted = replace(request(), group="web", group_rule="affinity")
    hosts = [host("a"), host("b", group_counts={"web": 1}, used=resources(4, 0, 0))]
    assert order(rank(hosts, wanted, SPREAD)) == ["a", "b"]
    assert order(rank(hosts, replace(wanted, group_started=True), SPREAD)) == ["b"]


def test_members_kept_apart_prefer_a_failure_domain_of_their_own() -> None:
    hosts = [host("a", failure_domain="rack-1"), host("b", failure_domain="rack-2"), host("c")]
    wanted = replace(request(), group="web", domain_members={"rack-1": 1})
    assert order(rank(hosts, wanted, SPREAD)) == ["b", "a", "c"]
    assert order(rank(hosts, replace(wanted, group_rule="soft_affinity"), SPREAD)) == ["a", "b", "c"]


def test_a_host_that_has_the_image_comes_first_among_equals() -> None:
    hosts = [host("a"), replace(host("b"), images=frozenset({"image-1"}))]
    assert order(rank(hosts, replace(request(), image="image-1"), SPREAD)) == ["b", "a"]
    assert order(rank(hosts, replace(request(), image="image-2"), SPREAD)) == ["a", "b"]


def test_ties_are_broken_by_id() -> None:
    hosts = [host("c"), host("a"), host("b")]
    assert order(rank(hosts, request(), SPREAD)) == ["a", "b", "c"]


@pytest.mark.parametrize("kinds", [1, 3, 500])
@pytest.mark.parametrize("place", [0, 31, 32, 40, 299])
def test_wherever_one_looks_first_the_order_is_that_of_all_sorted(kinds: int, place: int) -> None:
    """Ties (few kinds of hosts) reach over the edge of what is picked out without sorting all."""
    hosts = [
        host(f"h{number * 7919 % 300:03d}", used=resources(number * 31 % kinds % 8, 0, 0)) for number in range(300)
    ]
    expected = rank_hosts(hosts, request(), SPREAD).candidates
    ranking = rank_columns(Snapshot.from_hosts(hosts), request(), SPREAD)
    assert ranking.candidates[place] == expected[place]
    assert ranking.candidates == expected


def test_weight_of_zero_turns_a_weigher_off() -> None:
    busy, calm = host("a", load=1.0), host("b", load=0.0)
    ranking = rank([busy, calm], request(), Policy("spread", {"load": 0.0}))
    assert order(ranking) == ["a", "b"]
    assert "load" not in ranking.candidates[0].contributions


def test_unknown_policy_and_unknown_weigher_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown policy"):
        Policy("random")
    with pytest.raises(ValueError, match="known: spread"):
        Policy("spread", {"speed": 1.0})
    with pytest.raises(ValueError, match="nan"):
        Policy("spread", {"load": float("nan")})


def test_every_weigher_that_a_policy_can_name_exists() -> None:
    assert tuple(item.name for item in WEIGHERS) == WEIGHER_NAMES


def test_two_hosts_with_one_id_are_an_error() -> None:
    with pytest.raises(ValueError, match="same id"):
        rank_hosts([host("a"), host("a")], request(), SPREAD)
    with pytest.raises(ValueError, match="same id"):
        Snapshot.from_hosts([host("a"), host("a")])


def test_no_hosts_rank_to_nothing() -> None:
    assert rank([], request(), SPREAD) == Ranking((), (), ())
    assert rank(Snapshot.from_hosts([]), request(), SPREAD) == Ranking((), (), ())


def test_many_hosts_take_the_columns_and_give_what_the_objects_give() -> None:
    hosts = [host(f"{number:04}", used=resources(number % 9, number * 7 % 8192, number % 101)) for number in range(300)]
    assert rank(hosts, request(), SPREAD) == rank_hosts(hosts, request(), SPREAD)


def test_lazy_sequences_index_slice_and_compare_like_tuples() -> None:
    ranking = rank(Snapshot.from_hosts([host("a"), host("b"), host("c")]), request(), SPREAD)
    listed = tuple(ranking.candidates)
    assert all(isinstance(item, Candidate) for item in listed)
    assert ranking.candidates[-1] == listed[2]
    assert ranking.candidates[:2] == listed[:2]
    assert ranking.candidates[::-1] == listed[::-1]
    assert ranking.candidates == listed
    assert ranking.candidates != listed[:2]
    with pytest.raises(IndexError):
        ranking.candidates[3]


def test_load_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="load nan"):
        host(load=float("nan"))
