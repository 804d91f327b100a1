"""The operators' console: there for operators, absent for all others; its actions and their refusals."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from compute.models import Decision, Host, HostShare, Instance, JoinToken, Network, Operation, Pool
from compute.services.console import request_console_log
from tenants.models import Quota, Tenant, User
from tenants.services import quotas
from tests.factories.compute import make_host, make_pool
from tests.factories.tenants import PASSWORD, SYSTEM, make_member, make_tenant, make_user
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud

MODELS = [model for label in ("compute", "tenants") for model in apps.get_app_config(label).get_models()]


def _pages(cloud: Cloud) -> list[str]:
    instance = cloud.create_running("the-guest")
    cloud.node.beat()
    request_console_log(actor=cloud.actor, instance_id=instance.id)
    operation = Operation.objects.get(target_id=instance.id)
    decision = Decision.unscoped.get(instance_id=instance.id)
    return [
        "/console/",
        "/console/hosts",
        "/console/hosts/join",
        "/console/hosts/losses",
        f"/console/hosts/{cloud.host.id}",
        f"/console/hosts/{cloud.host.id}/loss",
        "/console/pools",
        "/console/capacity",
        f"/console/capacity?pool={cloud.pool.name}",
        "/console/operations",
        f"/console/operations/{operation.id}",
        "/console/tenants",
        f"/console/tenants/{cloud.tenant.id}",
        f"/console/tenants/{cloud.tenant.id}/move",
        f"/console/tenants/{cloud.tenant.id}/delete",
        "/console/users",
        "/console/decisions",
        f"/console/decisions/{decision.id}",
        "/console/books",
        "/console/usage",
        f"/console/usage?tenant={cloud.tenant.id}",
        "/console/prices",
        "/console/grants",
        "/console/audit",
    ]


def test_host_page_shows_what_the_host_says_of_itself_and_what_is_dedicated(people: People, cloud: Cloud) -> None:
    network = Network.objects.get(pool=cloud.host.pool)
    Host.objects.filter(id=cloud.host.id).update(
        facts={
            "kernel": "6.1.0",
            "cpu_models": ["Nehalem", "Westmere"],
            "cpu_flags": ["aes"],
            "networks": [str(network.id)],
            "images": [],
            "numa": [
                {
                    "id": 0,
                    "cpus": [0, 1, 2],
                    "dedicated": [2],
                    "memory_mib": 4096,
                    "huge_pages": [{"size_kib": 2048, "total": 64, "free": 60}],
                }
            ],
        },
        numa_used=[{"cell": 0, "cpus": [2], "memory_mib": 0, "pages": {"2048": 4}}],
    )
    page = people.cloud_operator.get(f"/console/hosts/{cloud.host.id}").content.decode()
    assert "2 models, 1 flag" in page
    assert f'<span class="tag">{network.name}</span>' in page
    assert "60 of 64 pages of 2048 KiB free" in page
    assert "1 for guests alone" in page
    assert "<div>CPU 2</div><div>4 pages of 2048 KiB</div>" in page


def test_host_page_shows_who_got_less_than_it_is_entitled_to(people: People, cloud: Cloud) -> None:
    other = make_tenant("rival-and-co")
    cloud.create_running("the-guest")
    for tenant, delivered in ((cloud.tenant, 0.1), (other, 0.9)):
        HostShare.unscoped.create(
            host=cloud.host,
            tenant=tenant,
            applied=100 if tenant == other else 7,
            cpu_seconds=1,
            waited_seconds=1,
            at=1,
            boot_id="boot",
            delivered=delivered,
            waited=0.9,
            observed_at=Now(),
        )
    page = people.cloud_operator.get(f"/console/hosts/{cloud.host.id}").content.decode()
    assert f"{cloud.tenant.name}: 0.10 of 0.50 vCPU entitled" in page
    assert 'class="delivered short"' in page
    assert "7 on the host" in page
    assert "rival-and-co: 0.90 of 0.50 vCPU entitled" in page
    assert "rival-and-co" not in people.owner.get("/usage").content.decode()


def test_operators_see_every_page_and_nobody_else_any(people: People, cloud: Cloud) -> None:
    for path in _pages(cloud):
        answer = people.cloud_operator.get(path)
        assert answer.status_code == 200, path
        for forbidden in (b" style=", b"<script>", b" onclick="):
            assert forbidden not in answer.content, path
        for other in (people.owner, people.stranger):
            refused = other.get(path)
            assert refused.status_code == 404, path
            assert b"the-guest" not in refused.content
        assert Client().get(path)["Location"].startswith("/login?next=/console/")


@pytest.mark.parametrize(
    "path",
    [
        "hosts/{id}/disable",
        "hosts/{id}/prove",
        "hosts/{id}/remove",
        "hosts/{id}/vouch",
        "hosts/join",
        "books",
        "prices",
    ],
)
def test_nobody_else_acts(path: str, people: People, cloud: Cloud) -> None:
    assert people.owner.post("/console/" + path.format(id=cloud.host.id)).status_code == 404
    cloud.host.refresh_from_db()
    assert cloud.host.admin_state == "enabled"
    assert JoinToken.objects.count() == Operation.objects.count() == 0


def test_hosts_are_disabled_enabled_proved_and_let_go(people: People, cloud: Cloud) -> None:
    operator, path = people.cloud_operator, f"/console/hosts/{cloud.host.id}"
    instance = cloud.create_running()
    assert operator.post(f"{path}/disable", {"reason": "new memory"}).status_code == 302
    assert "new memory" in operator.get(path).content.decode()
    refused = operator.post(f"{path}/remove", follow=True).content.decode()
    assert "still carries 1 instance" in refused
    assert operator.post(f"{path}/enable").status_code == 302
    cloud.host.refresh_from_db()
    assert cloud.host.admin_state == "enabled"
    answer = operator.post(f"{path}/prove")
    operation = Operation.objects.get(kind="host_prove")
    assert answer["Location"] == f"/console/operations/{operation.id}"
    assert "notice error" in operator.post(f"{path}/prove", follow=True).content.decode()
    empty = make_host(cloud.pool, name="spare", admin_state="disabled")
    assert operator.post(f"/console/hosts/{empty.id}/remove")["Location"] == "/console/hosts"
    assert Host.objects.get(id=empty.id).admin_state == "removed"
    assert Instance.unscoped.get(id=instance.id).state == "active"


def test_a_join_token_is_shown_once(people: People, cloud: Cloud) -> None:
    made = people.cloud_operator.post("/console/hosts/join", {"pool": cloud.pool.name, "name": "new-1"})
    command = made.context["command"]
    assert command.startswith("deploy/join ")
    assert "cnj_" in command
    assert command not in people.cloud_operator.get("/console/hosts/join").content.decode()
    assert JoinToken.objects.get().name == "new-1"
    for bad in ({"pool": "absent", "name": ""}, {"pool": cloud.pool.name, "name": "No!"}):
        assert people.cloud_operator.post("/console/hosts/join", bad).status_code == 400
    assert JoinToken.objects.count() == 1


def test_pools(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    values = {"name": "second", "cidr": "10.9.0.0/20", "vcpu_ratio": "2", "policy": "pack", "description": ""}
    assert operator.post("/console/pools", values).status_code == 302
    assert Pool.objects.get(name="second").vcpu_ratio == 2
    wrong = ({"name": "second"}, {"cidr": "x"}, {"vcpu_ratio": "nan"}, {"policy": "dice"})
    for bad in wrong:
        answer = operator.post("/console/pools", values | {"name": "third"} | bad)
        assert answer.status_code == 400
        assert list(answer.context["form"].errors) == list(bad)
    operator.post(f"/console/pools/{cloud.pool.id}/ratio", {"vcpu_ratio": "3"})
    cloud.host.refresh_from_db()
    assert cloud.host.ceiling_vcpus == 24
    assert (
        "notice error"
        in operator.post(f"/console/pools/{cloud.pool.id}/ratio", {"vcpu_ratio": "inf"}, follow=True).content.decode()
    )


def test_stuck_operations_are_found_and_tried_again(people: People, cloud: Cloud) -> None:
    _, operation = cloud.create()
    Operation.objects.filter(id=operation.id).update(state="stuck")
    listed = people.cloud_operator.get("/console/operations?state=stuck").content.decode()
    assert str(operation.id) in listed
    assert str(operation.id) not in people.cloud_operator.get("/console/operations?state=failed").content.decode()
    people.cloud_operator.post(f"/console/operations/{operation.id}/retry")
    operation.refresh_from_db()
    assert operation.state == "unwinding"
    people.cloud_operator.post(f"/console/operations/{operation.id}/cancel")
    operation.refresh_from_db()
    assert operation.cancel_requested


def test_tenants_and_quotas(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    made = operator.post("/console/tenants", {"name": "Acme", "owner": "the-viewer"})
    tenant = Tenant.objects.get(name="Acme")
    assert made["Location"] == f"/console/tenants/{tenant.id}"
    assert operator.post("/console/tenants", {"name": "acme", "owner": ""}).context["form"].errors["name"]
    assert operator.post("/console/tenants", {"name": "B", "owner": "nobody"}).context["form"].errors["owner"]
    limits = {row.resource: "" for row in Quota.unscoped.filter(tenant=tenant)}
    assert operator.post(f"/console/tenants/{tenant.id}", limits | {"vcpus": "7"}).status_code == 302
    assert Quota.unscoped.get(tenant=tenant, resource="vcpus").limit == 7
    assert Quota.unscoped.get(tenant=tenant, resource="disk_gib").limit is None
    for bad in ("-1", "many", "1e9", "9" * 16):
        answer = operator.post(f"/console/tenants/{tenant.id}", limits | {"vcpus": bad})
        assert answer.context["form"].errors["vcpus"]
    assert Quota.unscoped.get(tenant=tenant, resource="vcpus").limit == 7
    operator.post(f"/console/tenants/{tenant.id}/disable")
    tenant.refresh_from_db()
    assert tenant.state == "disabled"


def test_a_tenant_is_deleted_with_what_was_shown_once_its_name_was_typed(people: People, cloud: Cloud) -> None:
    operator, top = people.cloud_operator, make_tenant("leaving")
    make_tenant("below", parent=top)
    path = f"/console/tenants/{top.id}/delete"
    page = operator.get(path)
    assert "leaving/below" in page.content.decode()
    order = {"name": "leaving", "fingerprint": page.context["contents"].fingerprint}
    assert operator.post(path, {**order, "name": "Leaving"}).context["form"].errors["name"]
    make_tenant("late", parent=top)
    changed = operator.post(path, order)
    assert (changed.status_code, changed.context["form"].refusal.data["reason"]) == (400, "changed")
    assert "leaving/late" in changed.content.decode(), "what is there now is shown with the refusal"
    order["fingerprint"] = changed.context["contents"].fingerprint
    started = operator.post(path, order)
    operation = Operation.objects.get(kind="tenant_delete")
    assert started["Location"] == f"/console/operations/{operation.id}"
    assert "To the tenant" in operator.get(started["Location"]).content.decode()
    detail = operator.get(f"/console/tenants/{top.id}").content.decode()
    assert "deleting" in detail
    assert path not in detail


def test_a_tenant_is_moved_after_its_plan_was_shown(people: People, cloud: Cloud) -> None:
    operator, left, right = people.cloud_operator, make_tenant("left"), make_tenant("right", limits={"instances": 1})
    team = make_tenant("team", parent=left)
    make_member(right, "viewer", make_user("rita"))
    path = f"/console/tenants/{team.id}/move"
    plan = operator.get(path, {"parent": "right"}).content.decode()
    assert "left/team → right/team" in plan
    assert "rita" in plan
    assert Tenant.objects.get(id=team.id).parent_id == left.id
    assert operator.post(path, {"parent": "nowhere"}).context["form"].errors["parent"]
    assert operator.get(path, {"parent": "team"}).context["form"].refusal.data["reason"] == "cycle"
    assert operator.get(path, {"parent": ""}).context["form"].refusal.data["reason"] == "no_owner"
    with transaction.atomic():
        quotas.charge(tenant=team, amounts={"instances": 2})
    assert "may use 1 Instances" in operator.get(path, {"parent": "right"}).content.decode()
    order = {"parent": "right", "version": str(team.version)}
    assert operator.post(path, order).status_code == 400
    quotas.set_limit(actor=SYSTEM, tenant=right, resource="instances", limit=2)
    shown = operator.get(path, {"parent": "right"}).content.decode()
    assert f'name="version" value="{team.version}"' in shown
    assert f'name="parent" value="{right.id}"' in shown
    for version in ("", "x", str(team.version + 1)):
        assert operator.post(path, {**order, "version": version}).status_code == 400
    assert Tenant.objects.get(id=team.id).parent_id == left.id
    assert operator.post(path, order)["Location"] == f"/console/tenants/{team.id}"
    assert Tenant.objects.get(id=team.id).parent_id == right.id


def test_a_limit_below_the_use_is_told_with_how_much(people: People, cloud: Cloud) -> None:
    cloud.create()
    cloud.create("second")
    quotas.set_limit(actor=SYSTEM, tenant=cloud.tenant, resource="instances", limit=1)
    assert "1 over the limit" in people.cloud_operator.get(f"/console/tenants/{cloud.tenant.id}").content.decode()
    assert "1 over the limit: what exists stays" in people.owner.get("/").content.decode()


def test_users(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    values = {"username": "new", "email": "", "password": PASSWORD}
    assert operator.post("/console/users", values).status_code == 302
    assert operator.post("/console/users", values).context["form"].errors["username"]
    weak = operator.post("/console/users", values | {"username": "other", "password": "password"})
    assert weak.context["form"].errors["password"]
    assert b'value="password"' not in weak.content
    user = User.objects.get(username="new")
    operator.post(f"/console/users/{user.id}/disable")
    assert not User.objects.get(username="new").is_active
    operator.post(f"/console/users/{user.id}/enable")
    operator.post(f"/console/users/{user.id}/password", {"new_password": "another long password"})
    assert User.objects.get(username="new").check_password("another long password")


def test_the_audit_trail_is_searched_and_paged(people: People, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.create("alpha")
    cloud.create("beta")
    events = people.cloud_operator.get("/console/audit?q=alpha&action=instance.create").context["events"]
    assert [event.target_name for event in events] == ["alpha"]
    monkeypatch.setattr("cloud.console.views.records._AUDIT_PAGE", 1)
    first = people.cloud_operator.get("/console/audit?action=instance.create").context
    second = people.cloud_operator.get(f"/console/audit?action=instance.create&before={first['next']}").context
    assert [first["events"][0].target_name, second["events"][0].target_name] == ["beta", "alpha"]


@pytest.mark.parametrize(
    "path", ["/console/hosts", "/console/", "/console/decisions", "/console/audit", "/console/tenants"]
)
def test_lists_cost_the_same_for_one_row_and_for_many(path: str, people: People, cloud: Cloud) -> None:
    cloud.create("first")
    people.cloud_operator.get(path)
    with CaptureQueriesContext(connection) as few:
        people.cloud_operator.get(path)
    for number in range(4):
        cloud.create(f"more-{number}")
        make_host(cloud.pool)
    with CaptureQueriesContext(connection) as many:
        people.cloud_operator.get(path)
    assert len(many) == len(few)


def test_hosts_are_found_by_name_address_and_service(
    people: People, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        make_host(cloud.pool, name=f"rack-{number}")
    away = make_host(make_pool("other"), name="rack-away", observed_state="down")

    def names(query: str) -> list[str]:
        return [host.name for host in people.cloud_operator.get(f"/console/hosts{query}").context["hosts"]]

    assert names("?q=RACK-") == ["rack-0", "rack-1", "rack-2", "rack-away"]
    assert names(f"?q={away.address}") == ["rack-away"]
    assert names("?state=out-of-service") == ["rack-away"]
    assert "rack-away" not in names("?state=in-service")
    assert names("?pool=other") == ["rack-away"]
    assert names("?q=nothing") == []
    monkeypatch.setattr("cloud.pages.paging.page_by_name.__kwdefaults__", {"size": 3})
    first = people.cloud_operator.get("/console/hosts?q=rack").context["page"]
    assert (first.first_query, names(first.next_query)) == ("", ["rack-away"])


def test_overview_counts_all_hosts_and_names_some_in_trouble(
    people: People, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        make_host(cloud.pool, name=f"rack-{number}", observed_state="down")
    monkeypatch.setattr("cloud.console.views.overview._TROUBLE_SHOWN", 2)
    context = people.cloud_operator.get("/console/").context
    assert [host.name for host in context["trouble"]] == ["rack-0", "rack-1"]
    assert (context["hosts"].total, context["hosts"].up, context["hosts"].out) == (4, 1, 3)


def test_raw_records_are_read_only_and_without_secrets(people: People, cloud: Cloud) -> None:
    secret = "the-secret-in-user-data"
    instance = cloud.create_running()
    Instance.unscoped.filter(id=instance.id).update(user_data=secret)
    people.viewer.post("/tokens", {"name": "a", "scope": "read", "days": ""})
    for model in MODELS:
        root = f"/console/admin/{model._meta.app_label}/{model._meta.model_name}/"
        manager = getattr(model, "unscoped", model._default_manager)
        row = manager.first()
        for path in [root] + ([f"{root}{row.pk}/change/"] if row is not None else []):
            answer = people.cloud_operator.get(path)
            assert answer.status_code == 200, path
            text = answer.content.decode()
            for hidden in (secret, "argon2", cloud.host.node_token_hash):
                assert hidden not in text, path
            assert people.owner.get(path, follow=True).status_code == 404, path
        assert people.cloud_operator.get(f"{root}add/").status_code == 403, root
        if row is not None:
            assert people.cloud_operator.post(f"{root}{row.pk}/delete/", {"post": "yes"}).status_code == 403, root
            assert manager.filter(pk=row.pk).exists()


def test_raw_records_need_the_clouds_own_log_in(people: People, cloud: Cloud) -> None:
    make_user("boss", is_operator=True, password=PASSWORD)
    client = Client()
    form = client.get("/console/admin/", follow=True)
    assert form.redirect_chain[-1][0] == "/login?next=/console/admin/"
    answer = client.post(
        "/login?next=/console/admin/", {"username": "boss", "password": PASSWORD, "next": "/console/admin/"}
    )
    assert client.get(answer["Location"], follow=True).status_code == 200
    assert client.get("/console/admin/password_change/")["Location"] == "/account"
