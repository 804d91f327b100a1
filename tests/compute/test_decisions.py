"""Stored decisions: one row for what was decided, small, and saying the same as the ranking behind it."""

from __future__ import annotations

import time
import uuid
from decimal import Decimal

import pytest
from django.db import transaction

from compute.errors import NoAddressLeft, NoValidHost
from compute.models import Decision, Group, Host, HostRoster, Instance, Network
from compute.placement.kept import KEPT
from compute.scheduler.model import Policy, Ranking, Request, Resources
from compute.scheduler.ranking import rank
from compute.selectors.decisions import decision_of, explain_decision, list_decisions, shown_quota, shown_remedies
from compute.services.instances_create import create_instances
from compute.services.instances_forecast import ForecastPrice, forecast_instances
from compute.services.prices import set_price
from tenants.errors import PermissionDenied, QuotaExceeded
from tenants.models import Tenant
from tenants.scope import ALL
from tenants.services.access import Actor, visible_tenant_ids
from tenants.services.quotas import set_limit
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_actor, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant() -> Tenant:
    make_image("tiny")
    make_flavor("nano", vcpus=2, memory_mib=512)
    pool = make_pool("lab")
    for number in range(30):
        make_host(
            pool,
            name=f"lab-{number:02}",
            vcpus=1 + number // 10,
            memory_mib=8192 + number,
            admin_state="draining" if number == 25 else "enabled",
        )
    return make_tenant("acme")


@pytest.fixture
def owner(tenant: Tenant) -> Actor:
    return make_actor("owner", tenant)


def _create(owner: Actor, tenant: Tenant, **fields: object) -> list[Instance]:
    asked: dict[str, object] = {"name": "web", "flavor": "nano", "image": "tiny", "kind": "vm", **fields}
    return create_instances(actor=owner, tenant=tenant, **asked).instances  # type: ignore[arg-type]


def _ranked(vcpus: int = 2) -> Ranking:
    hosts = KEPT.look(None).hosts
    request = Request("vm", Resources(vcpus, 512, 1), pool_id=hosts[0].pool_id)
    return rank(hosts, request, Policy("spread"))


def test_a_placement_is_kept_with_every_host_and_the_numbers_of_the_best(owner: Actor, tenant: Tenant) -> None:
    expected = _ranked()
    (instance,) = _create(owner, tenant)
    decision = decision_of(actor=owner, instance=instance)
    found = explain_decision(actor=SYSTEM, decision=decision)
    assert [(one.host_name, one.score, dict(one.points)) for one in found.best] == [
        (one.host_name, one.score, dict(one.contributions)) for one in expected.candidates[:20]
    ]
    refused = {one.host_name: (one.filter, *one.also) for one in expected.refusals}
    assert {one.host_name: one.failing for one in found.verdicts} == {
        host.name: refused.get(host.name, ()) for host in Host.objects.all()
    }
    best = found.best[0]
    assert (best.host_name, best.free["vcpus"], best.margin["vcpus"]) == ("lab-20", 3, 1)
    assert found.choice.startswith("lab-20 is best with ")
    assert decision.host_id == instance.host_id
    assert len(decision.record) < 1500


def test_a_tie_is_told_as_one(owner: Actor, tenant: Tenant) -> None:
    Host.objects.exclude(name__in=["lab-28", "lab-29"]).update(admin_state="disabled")
    Host.objects.update(total_memory_mib=8192)
    (instance,) = _create(owner, tenant)
    found = explain_decision(actor=SYSTEM, decision=decision_of(actor=owner, instance=instance))
    assert found.tie
    assert "comes after it by id" in found.choice


def test_a_batch_is_one_decision_that_each_instance_leads_to(owner: Actor, tenant: Tenant) -> None:
    instances = _create(owner, tenant, count=5)
    decision = Decision.unscoped.get()
    assert decision.request["count"] == 5
    assert decision.plan == [[str(row.id), str(row.host_id)] for row in instances]
    for instance in instances:
        assert decision_of(actor=owner, instance=instance) == decision
        assert list(list_decisions(actor=owner, instance_id=instance.id)) == [decision]


def test_the_list_of_hosts_is_stored_once_until_it_changes(owner: Actor, tenant: Tenant) -> None:
    for number in range(3):
        _create(owner, tenant, name=f"web{number}")
    assert HostRoster.objects.count() == 1
    make_host(Host.objects.all()[0].pool, name="new", vcpus=64)
    (instance,) = _create(owner, tenant, name="after")
    assert HostRoster.objects.count() == 2
    assert (
        explain_decision(actor=SYSTEM, decision=decision_of(actor=owner, instance=instance)).best[0].host_name == "new"
    )
    old = Decision.unscoped.order_by("created_at")[0]
    assert "new" not in [one.host_name for one in explain_decision(actor=SYSTEM, decision=old).verdicts]


def test_a_list_of_hosts_that_was_rolled_back_is_stored_again(owner: Actor, tenant: Tenant) -> None:
    set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=0)
    with pytest.raises(QuotaExceeded):
        _create(owner, tenant)
    HostRoster.objects.all().delete()
    set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=5)
    make_host(Host.objects.all()[0].pool, name="new")
    set_limit(actor=SYSTEM, tenant=tenant, resource="vcpus", limit=0)
    with pytest.raises(QuotaExceeded):
        _create(owner, tenant)
    set_limit(actor=SYSTEM, tenant=tenant, resource="vcpus", limit=5)
    (instance,) = _create(owner, tenant)
    assert explain_decision(actor=SYSTEM, decision=decision_of(actor=owner, instance=instance)).verdicts


def test_a_refusal_keeps_those_that_lack_least(owner: Actor, tenant: Tenant) -> None:
    make_flavor("huge", vcpus=4, memory_mib=512)
    with pytest.raises(NoValidHost) as refused:
        _create(owner, tenant, flavor="huge")
    decision = Decision.unscoped.get(id=uuid.UUID(refused.value.data["decision_id"]))
    assert (decision.outcome, decision.code, decision.instance_id) == ("refused", "no_valid_host", None)
    closest = explain_decision(actor=SYSTEM, decision=decision).closest
    assert [one.host_name for one in closest[:3]] == ["lab-20", "lab-21", "lab-22"]
    assert (closest[0].free["vcpus"], closest[0].margin["vcpus"]) == (3, -1)
    assert "lab-25" not in [one.host_name for one in closest[:9]]


def test_a_refusal_by_quota_is_a_decision_with_the_level_and_what_is_missing(owner: Actor, tenant: Tenant) -> None:
    child = make_tenant("dev", parent=tenant)
    small = make_actor("owner", child)
    set_limit(actor=SYSTEM, tenant=tenant, resource="vcpus", limit=3)
    with pytest.raises(QuotaExceeded) as refused:
        create_instances(actor=small, tenant=child, name="web", flavor="nano", image="tiny", count=2)
    assert refused.value.data["resource"] == "vcpus"
    assert [remedy["body"] for remedy in refused.value.data["remedies"]] == [None, {"count": 1}, None]
    assert "acme" not in str(refused.value.data)
    decision = Decision.unscoped.get()
    assert (decision.code, str(decision.id)) == ("quota_exceeded", refused.value.data["decision_id"])
    below, above = (visible_tenant_ids(actor) for actor in (small, owner))
    told = shown_quota(decision=decision, visible=above)
    assert [(line["tenant"]["name"], line["limit"], line["missing"]) for line in told if line["missing"]] == [
        ("acme", 3, 1)
    ]
    assert "acme" not in str(shown_quota(decision=decision, visible=below))
    assert "Raise the quota of acme by 1 vCPU." in str(shown_remedies(decision=decision, visible=above))
    assert "Raise the quota of a tenant above yours by 1 vCPU." in str(shown_remedies(decision=decision, visible=below))


def test_a_full_network_is_a_decision_too(owner: Actor, tenant: Tenant) -> None:
    Network.objects.update(cidr="10.9.0.0/27")  # 14 for instances
    with pytest.raises(NoAddressLeft) as refused:
        _create(owner, tenant, count=15)
    assert Decision.unscoped.get().code == "no_address_left"
    assert [remedy["body"] for remedy in refused.value.data["remedies"]] == [{"count": 14}]


def test_moving_a_guest_is_offered_to_those_who_may_know_it(owner: Actor, tenant: Tenant) -> None:
    """lab-28 and lab-29 alone are in service: 3 vCPU each, 2 of them taken by a guest. 2 more fit once both are on one."""
    Host.objects.exclude(name__in=["lab-28", "lab-29"]).update(admin_state="disabled")
    make_flavor("one", vcpus=1, memory_mib=256)
    make_flavor("three", vcpus=3, memory_mib=256)
    stranger = make_tenant("rival")
    _create(owner, tenant, name="mine", flavor="one")
    (foreign,) = _create(make_actor("owner", stranger), stranger, name="theirs", flavor="one")
    Instance.unscoped.update(state="active")
    with pytest.raises(NoValidHost) as refused:
        _create(owner, tenant, name="big", flavor="three")
    sentences = [remedy["sentence"] for remedy in refused.value.data["remedies"]]
    assert "Move the instance mine (256 MiB of memory) to another host." in sentences
    assert "theirs" not in str(refused.value.data)
    assert "lab-2" not in str(refused.value.data)
    decision = Decision.unscoped.get(outcome="refused")
    told = [remedy["sentence"] for remedy in shown_remedies(decision=decision, visible=ALL)]
    name = Host.objects.get(id=foreign.host_id).name
    other = "lab-28" if name == "lab-29" else "lab-29"
    assert f"Move the instance theirs (256 MiB of memory) from {name} to {other}." in told
    with transaction.atomic():  # the move, as the books would have it
        Host.objects.filter(name=name).update(used_vcpus=0, used_memory_mib=0, used_disk_gib=0)
        Host.objects.filter(name=other).update(used_vcpus=2, used_memory_mib=512, used_disk_gib=2)
    _create(owner, tenant, name="big", flavor="three")


def test_several_guests_are_moved_where_one_does_not_do(owner: Actor, tenant: Tenant) -> None:
    """lab-28 with two guests of 1 vCPU and lab-29 with another's are to take 3: both of lab-28 go, or the one of lab-29."""
    Host.objects.exclude(name="lab-28").update(admin_state="disabled")
    make_flavor("one", vcpus=1, memory_mib=256)
    make_flavor("three", vcpus=3, memory_mib=256)
    stranger = make_tenant("rival")
    for name in ("left", "right"):
        _create(owner, tenant, name=name, flavor="one")
    Host.objects.filter(name="lab-28").update(admin_state="disabled")
    Host.objects.filter(name="lab-29").update(admin_state="enabled")
    _create(make_actor("owner", stranger), stranger, name="theirs", flavor="one")
    Host.objects.filter(name="lab-28").update(admin_state="enabled")
    Instance.unscoped.update(state="active")
    with pytest.raises(NoValidHost) as refused:
        _create(owner, tenant, name="big", flavor="three")
    moves = [
        [(change["instance"], change["memory_mib"]) for change in remedy["changes"]]
        for remedy in refused.value.data["remedies"]
        if remedy["changes"][0]["kind"] == "move_instance"
    ]
    assert moves == [[("left", 256), ("right", 256)]]
    assert "lab-2" not in str(refused.value.data)
    told = [
        remedy["sentence"]
        for remedy in shown_remedies(decision=Decision.unscoped.get(outcome="refused"), visible=ALL)
        if "move" in remedy["sentence"].lower()
    ]
    assert told == [
        "Move the instance theirs (256 MiB of memory) from lab-29 to lab-28.",
        "Move the instance left (256 MiB of memory) from lab-28 to lab-29 "
        "and move the instance right (256 MiB of memory) from lab-28 to lab-29.",
    ]


def test_a_guest_with_a_rule_of_its_group_is_not_offered_to_be_moved(owner: Actor, tenant: Tenant) -> None:
    Host.objects.exclude(name__in=["lab-28", "lab-29"]).update(admin_state="disabled")
    make_flavor("one", vcpus=1, memory_mib=256)
    make_flavor("three", vcpus=3, memory_mib=256)
    for name in ("left", "right"):
        _create(owner, tenant, name=name, flavor="one")
    Instance.unscoped.update(state="active")
    Instance.unscoped.filter(name="left").update(
        group=Group.unscoped.create(tenant=tenant, name="apart", rule="anti_affinity")
    )
    with pytest.raises(NoValidHost) as refused:
        _create(owner, tenant, name="big", flavor="three")
    named = {change.get("instance") for remedy in refused.value.data["remedies"] for change in remedy["changes"]}
    assert "right" in named
    assert "left" not in named


def test_a_forecast_names_the_price_of_all_instances_in_an_hour(owner: Actor, tenant: Tenant) -> None:
    asked = {"name": "web", "flavor": "nano", "image": "tiny", "count": 3}
    assert forecast_instances(actor=owner, tenant=tenant, **asked).price is None  # type: ignore[arg-type]
    for resource, per_hour in (("vcpu", "0.01"), ("memory_gib", "0.004")):
        set_price(actor=SYSTEM, resource=resource, per_hour=Decimal(per_hour), currency="EUR")
    time.sleep(1.1)  # a price begins with the next whole second
    price = forecast_instances(actor=owner, tenant=tenant, **asked).price  # type: ignore[arg-type]
    assert price == ForecastPrice(Decimal("0.066"), "EUR")


def test_tenants_may_not_read_the_record(owner: Actor, tenant: Tenant) -> None:
    (instance,) = _create(owner, tenant)
    with pytest.raises(PermissionDenied):
        explain_decision(actor=owner, decision=decision_of(actor=owner, instance=instance))


def test_what_was_decided_before_there_were_records_can_be_read(owner: Actor, tenant: Tenant) -> None:
    (instance,) = _create(owner, tenant)
    Decision.unscoped.update(record=b"", roster="", remedies=[{"sentence": "x", "changes": [_OLD_CHANGE]}])
    decision = decision_of(actor=owner, instance=instance)
    assert explain_decision(actor=SYSTEM, decision=decision).verdicts == ()
    assert shown_remedies(decision=decision, visible=ALL)[0]["sentence"] == "Use the pool p."


_OLD_CHANGE = {"kind": "pool", "resource": "", "asked": None, "to": None, "unit": "", "pool": "p", "traits": []}
