"""Forms: what they do, and what people are told when it cannot be done. Never a 500."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from compute.models import Flavor, Instance, Keypair, Operation, Price
from compute.services.groups import create_group
from compute.services.lease_terms import LeaseAsk
from tenants.models import ApiToken, Membership, Tenant
from tenants.services import quotas
from tenants.services.tokens import authenticate_token
from tests.factories.compute import make_flavor
from tests.factories.nodes import run_to_end
from tests.factories.tenants import PASSWORD, SYSTEM, make_member, make_tenant, make_user
from tests.portal.conftest import People, client_of
from tests.sagas.conftest import Cloud

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJm4eiNQaS0pjZdYpzTOYx1U0sKYOJyfLbXSEjFsVBYM ana@laptop"


def _new(client: Client, **changes: object) -> object:
    values = {"name": "web", "image": "tiny", "flavor": "small", "count": "1", "tags": "", "user_data": "", "pool": ""}
    return client.post("/instances/new", values | changes)


def test_create_leads_to_the_instance(people: People, cloud: Cloud) -> None:
    answer = _new(people.operator, tags="env=prod\n note = a=b ", user_data="#!/bin/sh\r\ntrue\r\n")
    instance = Instance.unscoped.get(name="web")
    assert answer["Location"] == f"/instances/{instance.id}"
    assert instance.tags == {"env": "prod", "note": "a=b"}
    assert instance.user_data == "#!/bin/sh\ntrue\n"
    assert _new(people.operator, name="many", count="3")["Location"] == "/instances"
    assert Instance.unscoped.count() == 4


def test_create_offers_the_groups_there_are(people: People, cloud: Cloud) -> None:
    assert 'name="group"' not in people.operator.get("/instances/new").content.decode()
    group = create_group(actor=SYSTEM, tenant=cloud.tenant, name="front", rule="anti_affinity")
    assert "front (always apart)" in people.operator.get("/instances/new").content.decode()
    _new(people.operator, group=str(group.id))
    made = Instance.unscoped.get(name="web")
    assert made.group_id == group.id
    shown = people.operator.get(f"/instances/{made.id}").content.decode()
    assert 'front <span class="muted">always apart</span>' in shown


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"name": "Web!"}, "name", "lower-case letters"),
        ({"name": "</title><script>"}, "name", "lower-case letters"),
        ({"name": "a\x00b"}, "name", "lower-case letters"),
        ({"count": "0"}, "count", "from 1 to 100"),
        ({"count": "1e3"}, "count", "whole number"),
        ({"count": "٣"}, "count", "whole number"),
        ({"flavor": "absent"}, "flavor", "There is no flavor"),
        ({"image": "absent"}, "image", "There is no image"),
        ({"keypairs": ["absent"]}, "keypairs", "There is no keypair"),
        ({"tags": "no sign"}, "tags", "key=value"),
        ({"tags": "a b=c"}, "tags", "key"),
    ],
)
def test_wrong_fields_are_told_beside_the_field(
    changes: dict[str, object], field: str, words: str, people: People, cloud: Cloud
) -> None:
    answer = _new(people.owner, **changes)
    assert answer.status_code == 400
    assert words in " ".join(answer.context["form"].errors[field])
    assert "<script>" not in answer.content.decode()
    assert Instance.unscoped.count() == 0


def test_a_refusal_by_placement_says_why_and_what_would_help(people: People, cloud: Cloud) -> None:
    Flavor.objects.create(name="wide", vcpus=9, memory_mib=256, disk_gib=1)
    text = _new(people.owner, flavor="wide").content.decode()
    assert "No host can take this now." in text
    assert "lacks vCPU" in text
    assert "What would make it fit" in text
    assert Instance.unscoped.count() == 0


def test_a_refusal_by_quota_shows_the_numbers(people: People, cloud: Cloud) -> None:
    quotas.set_limit(actor=SYSTEM, tenant=cloud.tenant, resource="vcpus", limit=2)
    answer = _new(people.owner, count="3")
    assert answer.status_code == 400
    assert "may use 2 vcpus, uses 0, and 3 more were asked for" in answer.content.decode()
    assert Instance.unscoped.count() == 0


def test_power_and_delete(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running()
    path = f"/instances/{instance.id}"
    answer = people.operator.post(f"{path}/stop", {"next": "/instances?q=web"})
    assert answer["Location"] == "/instances?q=web"
    # A second order while the first runs is a notice, not an error page.
    again = people.operator.post(f"{path}/reboot", follow=True)
    assert again.status_code == 200
    assert "notice error" in again.content.decode()
    assert Operation.objects.filter(kind="instance_reboot").count() == 0
    run_to_end(Operation.objects.get(kind="instance_stop").id, cloud.node)
    assert (
        "Nothing was deleted" in people.operator.post(f"{path}/delete", {"name": "wrong"}, follow=True).content.decode()
    )
    assert Operation.objects.filter(kind="instance_delete").count() == 0
    assert people.operator.post(f"{path}/delete", {"name": "web"}).status_code == 302
    assert Operation.objects.filter(kind="instance_delete").count() == 1


def test_resize_is_offered_for_what_is_stopped_and_planned_before_it_is_done(people: People, cloud: Cloud) -> None:
    Price.objects.create(resource="vcpu", per_hour="0.5", currency="EUR", valid_from="2026-01-01T00:00:00Z", set_by="x")
    make_flavor("wide", vcpus=8)
    large, less = make_flavor("large", vcpus=3, disk_gib=2), make_flavor("less", memory_mib=64)
    running, stopped = cloud.create_running("up"), cloud.create_stopped("down")
    link = f'href="/instances/{stopped.id}/resize"'
    assert link in people.operator.get(f"/instances/{stopped.id}").content.decode()
    assert link not in people.viewer.get(f"/instances/{stopped.id}").content.decode()
    assert "/resize" not in people.operator.get(f"/instances/{running.id}").content.decode()
    path = f"/instances/{stopped.id}/resize"
    assert "wide" in people.operator.get(path).content.decode()
    assert people.viewer.get(path).status_code == 403
    assert people.stranger.get(path).status_code == 404
    assert people.stranger.get(f"{path}/plan?flavor={large.id}").status_code == 404
    assert "Choose a size" in people.operator.get(f"{path}/plan").content.decode()
    own = Flavor.objects.create(name="own-cpus", vcpus=1, memory_mib=256, disk_gib=1, pinned=True)
    assert "own-cpus" not in people.operator.get(path).content.decode()
    never = people.operator.get(f"{path}/plan?flavor={own.id}").content.decode()
    assert "given when an instance is made" in never
    told = people.operator.get(f"{path}/plan?flavor={large.id}").content.decode()
    assert "Fits." in told
    assert "quota: 4 of 10 then" in told
    assert "1.5" in told
    refused = people.operator.post(path, {"flavor": "wide"})
    assert refused.status_code == 400
    assert "7 more would be needed" in refused.content.decode()
    assert people.operator.post(path, {"flavor": str(large.id)})["Location"] == f"/instances/{stopped.id}"
    assert run_to_end(Operation.objects.get(kind="instance_resize").id, cloud.node).state == "succeeded"
    smaller = people.operator.post(path, {"flavor": str(less.id)})
    assert "A disk never shrinks" in smaller.content.decode()
    assert Instance.unscoped.get(id=stopped.id).vcpus == 3


def test_a_lease_is_given_with_the_instance_and_changed_on_a_page_of_its_own(people: People, cloud: Cloud) -> None:
    form = {"name": "web", "image": "tiny", "flavor": "small", "count": "1", "lease": "3600", "lease_action": "delete"}
    assert people.operator.post("/instances/new", form | {"lease": "7"}).status_code == 400
    assert people.operator.post("/instances/new", form).status_code == 302
    instance = Instance.unscoped.get()
    path, page = f"/instances/{instance.id}/lease", f"/instances/{instance.id}"
    text = people.operator.get(page).content.decode()
    assert "will be deleted with its disk" in text
    assert f'href="{path}"' in text
    assert f'href="{path}"' not in people.viewer.get(page).content.decode()
    assert people.viewer.get(path).status_code == 403
    assert people.stranger.get(path).status_code == 404
    assert "it is deleted then" in people.operator.get(path).content.decode()
    assert people.operator.post(path, {"lease": "604800", "lease_action": "stop"})["Location"] == page
    text = people.operator.get(page).content.decode()
    assert "then stopped" in text
    assert "Lease ends" not in text, "a week is time enough"
    assert "Choose one of the lengths" in people.operator.post(path, {"lease": "1"}).content.decode()
    assert people.operator.post(path, {"lease": ""}).status_code == 302
    assert Instance.unscoped.get().lease_ends_at is None
    people.viewer.post(path, {"lease": "3600"})
    assert Instance.unscoped.get().lease_ends_at is None, "a viewer's order"


def test_an_instance_that_its_lease_has_stopped_says_how_it_starts_again(people: People, cloud: Cloud) -> None:
    instance = cloud.create_stopped(lease=LeaseAsk(seconds=60, action="stop"))
    Instance.unscoped.update(lease_ends_at=timezone.now() - timedelta(hours=2))
    assert (
        "it starts again once it has another, or none"
        in people.viewer.get(f"/instances/{instance.id}").content.decode()
    )
    answer = people.operator.post(f"/instances/{instance.id}/start", follow=True)
    assert "lease of web has ended, and it stays stopped" in answer.content.decode()


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_forms_lead_back_to_our_own_pages_only(target: str, people: People, cloud: Cloud) -> None:
    instance = cloud.create_running()
    answer = people.operator.post(f"/instances/{instance.id}/stop", {"next": target})
    assert answer["Location"] == f"/instances/{instance.id}"


def test_without_a_form_token_nothing_happens(cloud: Cloud) -> None:
    user = make_user()
    make_member(cloud.tenant, "owner", user)
    client = client_of(user, enforce_csrf=True)
    instance = cloud.create_running()
    for path in (f"/instances/{instance.id}/stop", "/keys", "/tokens", "/members", "/account", "/logout", "/login"):
        answer = client.post(path, {"name": "x"})
        assert answer.status_code == 403, path
    assert "This form has expired" in answer.content.decode()
    assert Operation.objects.filter(kind="instance_stop").count() == 0


def test_changes_are_post_only(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running()
    for path in (f"/instances/{instance.id}/stop", f"/instances/{instance.id}/delete", "/logout", "/tenants/switch"):
        assert people.owner.get(path).status_code == 405, path


def test_keys(people: People, cloud: Cloud) -> None:
    assert people.owner.post("/keys", {"name": "laptop", "public_key": KEY}).status_code == 302
    taken = people.owner.post("/keys", {"name": "laptop", "public_key": KEY})
    assert "already" in taken.context["form"].errors["name"][0]
    wrong = people.owner.post("/keys", {"name": "other", "public_key": "-----BEGIN PRIVATE KEY-----"})
    assert wrong.status_code == 400
    assert wrong.context["form"].errors["public_key"]
    key = Keypair.unscoped.get()
    assert people.stranger.post(f"/keys/{key.id}/delete").status_code == 404
    people.viewer.post(f"/keys/{key.id}/delete")
    assert Keypair.unscoped.count() == 1
    people.operator.post(f"/keys/{key.id}/delete")
    assert Keypair.unscoped.count() == 0


def test_a_token_is_shown_once_and_works_until_it_is_revoked(people: People, cloud: Cloud) -> None:
    made = people.viewer.post("/tokens", {"name": "backup-job", "scope": "read", "days": "30"})
    text = made.context["text"]
    assert authenticate_token(text=text).scope == "read"
    assert text not in people.viewer.get("/tokens").content.decode()
    token = ApiToken.unscoped.get(name="backup-job")
    assert "backup-job" not in people.operator.get("/tokens").content.decode()
    assert people.operator.post(f"/tokens/{token.id}/revoke", follow=True).status_code == 200
    token.refresh_from_db()
    assert token.revoked_at is None
    people.admin.post(f"/tokens/{token.id}/revoke")
    token.refresh_from_db()
    assert token.revoked_at is not None
    for bad in ({"name": ""}, {"scope": "root"}, {"days": "-1"}):
        assert people.viewer.post("/tokens", {"name": "a", "scope": "full", "days": ""} | bad).status_code == 400


def test_members(people: People, cloud: Cloud) -> None:
    new = make_user("newcomer")
    assert people.admin.post("/members", {"user": "Newcomer", "role": "viewer"}).status_code == 302
    assert people.admin.post("/members", {"user": "nobody", "role": "viewer"}).status_code == 400
    refused = people.operator.post("/members", {"user": "nobody", "role": "viewer"})
    assert "There is no user" not in refused.content.decode()
    people.admin.post(f"/members/{new.id}/role", {"role": "owner"})
    assert Membership.unscoped.get(user=new).role == "viewer"
    people.admin.post(f"/members/{new.id}/role", {"role": "operator"})
    assert Membership.unscoped.get(user=new).role == "operator"
    people.admin.post(f"/members/{new.id}/remove")
    assert not Membership.unscoped.filter(user=new).exists()


def test_password(cloud: Cloud) -> None:
    user = make_user("ana", password=PASSWORD)
    here, there = Client(), Client()
    for client in (here, there):
        assert client.post("/login", {"username": "ana", "password": PASSWORD}).status_code == 302
    values = {"current_password": "wrong", "new_password": "a new and long one", "repeated": "a new and long one"}
    assert here.post("/account", values).context["form"].errors["current_password"]
    assert here.post("/account", values | {"repeated": "b"}).context["form"].errors["repeated"]
    assert (
        here.post("/account", values | {"current_password": PASSWORD, "new_password": "a", "repeated": "a"}).status_code
        == 400
    )
    assert here.post("/account", values | {"current_password": PASSWORD}).status_code == 302
    assert here.get("/account").status_code == 200
    assert there.get("/account").status_code == 302
    user.refresh_from_db()
    assert user.check_password("a new and long one")


def test_guessing_passwords_is_stopped(cloud: Cloud) -> None:
    make_user("ana", password=PASSWORD)
    client = Client()
    codes = [client.post("/login", {"username": "ana", "password": "wrong"}).status_code for _ in range(9)]
    assert codes[0] == 200
    assert codes[-1] == 429
    locked = client.post("/login", {"username": "ana", "password": PASSWORD})
    assert locked.status_code == 429
    assert "Too many wrong passwords" in locked.content.decode()


def test_who_belongs_nowhere_is_told_so(cloud: Cloud) -> None:
    assert "You belong to no tenant yet" in client_of(make_user()).get("/").content.decode()


def test_a_tenant_below_is_deleted_with_what_was_shown_once_its_name_was_typed(people: People, cloud: Cloud) -> None:
    team = make_tenant("team", parent=cloud.tenant)
    path = f"/tenants/{team.id}/delete"
    assert path in people.owner.get("/tenants").content.decode()
    assert f"/tenants/{cloud.tenant.id}/delete" not in people.owner.get("/tenants").content.decode(), "from above"
    page = people.owner.get(path)
    order = {"name": "team", "fingerprint": page.context["contents"].fingerprint}
    for who in ("admin", "operator", "viewer"):
        assert path not in people.named(who).get("/tenants").content.decode()
        assert people.named(who).get(path).status_code == 403
        assert people.named(who).post(path, order)["Location"] == "/", "refused with a message"
    assert people.stranger.get(path).status_code == 404
    assert people.stranger.post(path, order).status_code == 404
    assert people.owner.get(f"/tenants/{cloud.tenant.id}/delete").status_code == 403
    assert not Operation.objects.exists()
    assert people.owner.post(path, {**order, "name": "tea"}).context["form"].errors["name"]
    assert people.owner.post(path, {**order, "fingerprint": ""}).context["form"].refusal.data["reason"] == "changed"
    assert Tenant.objects.get(id=team.id).state == "active"
    started = people.owner.post(path, order)
    operation = Operation.objects.get(kind="tenant_delete")
    assert started["Location"] == f"/operations/{operation.id}"
    assert "Delete tenant team" in people.owner.get(started["Location"]).content.decode()
    assert Tenant.objects.get(id=team.id).state == "deleting"
    assert path not in people.owner.get("/tenants").content.decode()


def test_people_of_a_tenant_that_is_being_deleted_are_told(people: People, cloud: Cloud) -> None:
    top = make_tenant("top")
    Tenant.objects.filter(id=cloud.tenant.id).update(parent=top, path=[top.id, cloud.tenant.id])
    for state, words in (
        ("disabled", "This tenant is disabled"),
        ("deleting", "is being deleted with all that it holds"),
    ):
        Tenant.objects.filter(id=top.id).update(state=state)
        assert words in people.owner.get("/").content.decode()
