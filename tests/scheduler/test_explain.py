"""Sentences: what tenants read names no host; what operators read names and counts."""

from __future__ import annotations

from hypothesis import given

from compute.scheduler.explain import operator_summary, refusal_sentence, tenant_summary
from compute.scheduler.filters import FILTERS
from compute.scheduler.model import HostState, Policy, Refusal, Request
from compute.scheduler.ranking import rank
from tests.factories.scheduler import host, request, resources
from tests.scheduler.strategies import counted, fleets, policies, requests

SPREAD = Policy("spread")


def test_tenant_is_told_counts_reasons_and_largest_room() -> None:
    hosts = [
        host("a", used=resources(0, 8192, 0)),
        host("b", used=resources(0, 7680, 0)),
        host("c", admin_state="draining"),
    ]
    assert tenant_summary(rank(hosts, request(1, 1024, 1), SPREAD)) == (
        "3 hosts: 1 is draining, 2 lack memory (largest room 512 MiB, 1024 asked).",
    )


def test_tenant_is_told_when_there_are_no_hosts() -> None:
    assert tenant_summary(rank([], request(), SPREAD)) == ("There are no hosts.",)


def test_room_of_a_shrunken_host_is_told_as_none_left() -> None:
    ranking = rank([host("a", used=resources(10, 0, 0))], request(), SPREAD)
    assert tenant_summary(ranking) == ("1 host: 1 lacks vCPU (largest room 0 vCPU, 1 asked).",)


def test_operator_is_told_names_and_numbers_closest_first() -> None:
    hosts = [
        host("a", used=resources(8, 8192, 0)),
        host("b", used=resources(0, 7680, 0)),
        host("c", observed_state="down"),
    ]
    assert operator_summary(rank(hosts, request(1, 1024, 1), SPREAD))[1:] == (
        "C is down.",
        "B lacks memory: 1024 MiB asked, 512 MiB free.",
        "A lacks vCPU: 1 vCPU asked, 0 vCPU free; refused as well by capacity_memory.",
    )


def test_operator_is_told_why_the_best_comes_before_the_next() -> None:
    hosts = [host("a", load=0.5), host("b", load=0.25)]
    assert operator_summary(rank(hosts, request(4, 1024, 10), SPREAD)) == (
        "2 hosts: 2 can take it.",
        "B is best with 0.875 (spread 0.500, load 0.375); next is A with 0.750: load +0.125.",
    )


def test_operator_is_told_of_a_tie() -> None:
    (_, choice) = operator_summary(rank([host("a"), host("b")], request(4, 1024, 10), SPREAD))
    assert choice.endswith("; B is as good, and comes after it by id.")


def test_operator_is_told_how_many_more_refused() -> None:
    hosts = [host(str(number), admin_state="disabled") for number in range(9)]
    sentences = operator_summary(rank(hosts, request(), SPREAD))
    assert len(sentences) == 7
    assert sentences[-1] == "4 more."


def test_every_filter_has_words_for_one_host_and_for_several() -> None:
    for item in FILTERS:
        assert refusal_sentence(Refusal("a", item.name, seen="seen")).startswith("a ")


@counted
@given(fleets(), requests, policies)
def test_tenant_summary_names_no_host_and_counts_all(hosts: list[HostState], wanted: Request, policy: Policy) -> None:
    (sentence,) = tenant_summary(rank(hosts, wanted, policy))
    assert not any(item.id in sentence or item.name in sentence for item in hosts)
    if hosts:
        assert sentence.startswith(f"{len(hosts)} host")


@counted
@given(fleets(), requests, policies)
def test_operator_summary_can_be_told_for_any_ranking(hosts: list[HostState], wanted: Request, policy: Policy) -> None:
    ranking = rank(hosts, wanted, policy)
    sentences = operator_summary(ranking)
    assert sentences[0] == tenant_summary(ranking)[0]
    if ranking.candidates:
        assert ranking.candidates[0].host_name in sentences[1]
