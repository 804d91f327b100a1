"""Groups below the doors: their rules hold over creates, batches, deletes and failure domains."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import transaction

from compute.errors import InUse, NoValidHost
from compute.models import Decision, Group, Host, Instance
from compute.placement.give_back import give_back
from compute.services import groups
from compute.services.groups import create_group, delete_group
from compute.services.hosts import set_failure_domain
from compute.services.instances_create import create_instances
from compute.services.instances_forecast import forecast_instances
from tenants.errors import InvalidInput, NameTaken, NotFound
from tenants.models import AuditEvent, Tenant
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant() -> Tenant:
    make_flavor("small")
    make_image("tiny")
    return make_tenant("acme")


def hosts(*domains: str, vcpus: int = 8) -> list[Host]:
    pool = make_pool()
    made = [make_host(pool, name=f"host-{number}", vcpus=vcpus) for number in range(len(domains))]
    for host, domain in zip(made, domains, strict=True):
        set_failure_domain(actor=SYSTEM, host_id=host.id, failure_domain=domain)
    return made


def create(tenant: Tenant, group: str | None = "web", count: int = 1) -> list[Instance]:
    order = {"actor": SYSTEM, "tenant": tenant, "name": "guest", "flavor": "small", "image": "tiny"}
    return create_instances(**order, group=group, count=count).instances  # type: ignore[arg-type]  # plain texts


def where(tenant: Tenant) -> list[int]:
    """How many instances each used host has, most first."""
    on = Instance.unscoped.filter(tenant=tenant, state="building").values_list("host__name", flat=True)
    return sorted(Counter(on).values(), reverse=True)


def end(instance: Instance) -> None:
    with transaction.atomic():
        give_back(instance=Instance.unscoped.select_for_update(no_key=True).get(id=instance.id))
        Instance.unscoped.filter(id=instance.id).update(state="deleted", host=None)


@pytest.mark.parametrize("batches", [[3], [1, 2], [1, 1, 1]])
def test_members_kept_apart_never_share_a_host(tenant: Tenant, batches: list[int]) -> None:
    hosts("", "", "")
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="anti_affinity")
    for count in batches:
        create(tenant, count=count)
    assert where(tenant) == [1, 1, 1]
    with pytest.raises(NoValidHost) as refused:
        create(tenant)
    assert refused.value.data["tally"] == {"anti_affinity": 3}
    assert any(
        change["kind"] == "soft_group" for remedy in refused.value.data["remedies"] for change in remedy["changes"]
    )
    create(tenant, group=None)  # others may go where the members are


def test_a_place_is_free_again_once_its_member_is_gone(tenant: Tenant) -> None:
    hosts("", "")
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="anti_affinity")
    first, _ = create(tenant, count=2)
    end(first)
    create(tenant)
    assert where(tenant) == [1, 1]


@pytest.mark.parametrize("batches", [[4], [1, 3]])
def test_members_that_share_a_host_go_where_all_of_a_batch_fits(tenant: Tenant, batches: list[int]) -> None:
    hosts("", "", vcpus=4)
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="affinity")
    for count in batches:
        create(tenant, count=count)
    assert where(tenant) == [4]
    with pytest.raises(NoValidHost):
        create(tenant)


def test_a_group_that_shares_a_host_is_refused_as_a_whole(tenant: Tenant) -> None:
    hosts("", "", vcpus=4)
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="affinity")
    with pytest.raises(NoValidHost):
        create(tenant, count=5)
    assert where(tenant) == []


def test_the_soft_rules_prefer(tenant: Tenant) -> None:
    hosts("", "")
    create_group(actor=SYSTEM, tenant=tenant, name="apart", rule="soft_anti_affinity")
    create_group(actor=SYSTEM, tenant=tenant, name="near", rule="soft_affinity")
    create(tenant, "apart", count=3)
    assert where(tenant) == [2, 1]
    near = create(tenant, "near", count=3)
    assert len({instance.host_id for instance in near}) == 1


def test_a_failure_domain_takes_no_more_than_the_group_allows(tenant: Tenant) -> None:
    hosts("rack-1", "rack-1", "rack-2", "")
    group = create_group(actor=SYSTEM, tenant=tenant, name="web", rule="soft_anti_affinity", max_per_domain=2)
    create(tenant)
    create(tenant, count=3)
    domains = Counter(Instance.unscoped.filter(group=group).values_list("host__failure_domain", flat=True))
    assert domains == {"rack-1": 2, "rack-2": 2}
    with pytest.raises(NoValidHost) as refused:
        create(tenant)
    assert refused.value.data["tally"] == {"failure_domain": 4}


def test_a_decision_keeps_what_the_group_had_elsewhere(tenant: Tenant) -> None:
    hosts("rack-1", "rack-2")
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="anti_affinity", max_per_domain=1)
    create(tenant)
    create(tenant)
    kept = Decision.unscoped.latest("created_at").request
    assert kept["group_started"] is True
    assert sorted(kept["domain_members"].values()) == [1]


def test_a_forecast_knows_the_group(tenant: Tenant) -> None:
    hosts("", "")
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="anti_affinity")
    create(tenant)

    def forecast(count: int) -> object:
        order = {"actor": SYSTEM, "tenant": tenant, "name": "guest", "flavor": "small", "image": "tiny"}
        return forecast_instances(**order, group="web", count=count).fits  # type: ignore[arg-type]  # plain texts

    assert (forecast(1), forecast(2)) == (True, False)


def test_a_group_with_instances_is_not_deleted_and_goes_without(tenant: Tenant) -> None:
    hosts("")
    group = create_group(actor=SYSTEM, tenant=tenant, name="web", rule="anti_affinity")
    (instance,) = create(tenant)
    with pytest.raises(InUse):
        delete_group(actor=SYSTEM, group_id=group.id)
    end(instance)
    delete_group(actor=SYSTEM, group_id=group.id)
    assert not Group.unscoped.exists()
    assert Instance.unscoped.get(id=instance.id).group_id is None
    with pytest.raises(NotFound):
        delete_group(actor=SYSTEM, group_id=group.id)


def test_names_are_taken_once_in_a_tenant_and_groups_have_an_end(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_group(actor=SYSTEM, tenant=tenant, name="web", rule="affinity")
    with pytest.raises(NameTaken):
        create_group(actor=SYSTEM, tenant=tenant, name="web", rule="affinity")
    create_group(actor=SYSTEM, tenant=make_tenant("other"), name="web", rule="affinity")
    monkeypatch.setattr(groups, "MOST_PER_TENANT", 1)
    with pytest.raises(InUse, match="1 groups"):
        create_group(actor=SYSTEM, tenant=tenant, name="second", rule="affinity")


def test_a_group_of_another_tenant_is_not_found(tenant: Tenant) -> None:
    hosts("")
    create_group(actor=SYSTEM, tenant=make_tenant("other"), name="theirs", rule="affinity")
    with pytest.raises(InvalidInput):
        create(tenant, "theirs")


def test_failure_domains_are_names_and_their_changes_are_audited() -> None:
    (host,) = hosts("rack-1")
    with pytest.raises(InvalidInput):
        set_failure_domain(actor=SYSTEM, host_id=host.id, failure_domain="Rack 1")
    event = AuditEvent.unscoped.get(action="host.update")
    assert (event.before, event.after) == ({"failure_domain": ""}, {"failure_domain": "rack-1"})
