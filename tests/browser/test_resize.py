"""The page of a resize: what a size means is told before the button is pressed."""

from __future__ import annotations

from playwright.sync_api import expect

from compute.models import Instance, Operation, Price
from tests.browser.conftest import Desk
from tests.factories.compute import make_flavor
from tests.factories.nodes import run_to_end


def test_a_stopped_instance_is_resized_as_the_page_foretold(desk: Desk) -> None:
    make_flavor("large", vcpus=3, memory_mib=1024, disk_gib=4)
    make_flavor("vast", vcpus=8, memory_mib=512)
    Price.objects.create(
        resource="vcpu", per_hour="0.02", currency="EUR", valid_from="2026-01-01T00:00:00Z", set_by="x"
    )
    stopped = desk.cloud.create_stopped()
    page = desk.page
    page.goto(f"/instances/{stopped.id}")
    page.get_by_role("link", name="Resize").click()
    told = page.locator(".forecast")
    expect(told).to_contain_text("Choose a size")
    page.get_by_role("radio", name="vast").check()
    expect(told).to_contain_text("quota: 8 of 10 then")
    page.get_by_role("radio", name="large").check()
    expect(told).to_contain_text("quota: 3 of 10 then")
    expect(told).to_contain_text("0.06")
    page.get_by_role("button", name="Resize").click()
    expect(page.get_by_text("web is being resized.")).to_be_visible()
    run_to_end(Operation.objects.get(kind="instance_resize").id, desk.cloud.node)
    expect(page.get_by_text("3 vCPU")).to_be_visible()
    assert Instance.unscoped.get().flavor.name == "large"
