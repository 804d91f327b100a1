"""Deleting a tenant with all that it holds, in a real browser."""

from __future__ import annotations

from playwright.sync_api import expect

from compute.models import Operation
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tests.browser.conftest import Desk
from tests.factories.tenants import SYSTEM, make_tenant
from tests.sagas.test_tenant_delete import work


def test_what_goes_is_seen_first_and_then_watched_until_it_is_gone(desk: Desk) -> None:
    team = make_tenant("team", parent=desk.cloud.tenant)
    create_instances(actor=SYSTEM, tenant=team, name="web", flavor="small", image="tiny", count=2)
    work(desk.cloud)
    page = desk.page
    page.goto("/tenants")
    page.get_by_role("link", name="Delete").click()
    expect(page.get_by_role("row", name="Instances, with their disks 2")).to_be_visible()
    expect(page.get_by_role("link", name="web-1")).to_be_visible()
    page.get_by_label("Type its name: team").fill("team")
    page.get_by_role("button", name="Delete all of it").click()
    expect(page.get_by_role("heading", name="Delete tenant team")).to_be_visible()
    work(desk.cloud, rounds=1)
    expect(page.get_by_text("0 of 2 instances deleted")).to_be_visible()
    work(desk.cloud)
    expect(page.get_by_text("1 of 1 tenants deleted")).to_be_visible()
    assert Operation.objects.get(kind="tenant_delete").state == "succeeded"
    assert Tenant.objects.get(id=team.id).state == "deleted"
