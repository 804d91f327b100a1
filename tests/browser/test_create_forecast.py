"""The form of a create: what it would meet is told before the button is pressed, and a remedy is one click."""

from __future__ import annotations

from playwright.sync_api import expect

from compute.models import Instance
from tests.browser.conftest import Desk
from tests.factories.compute import make_flavor


def test_the_forecast_follows_the_form_and_a_remedy_is_one_click(desk: Desk) -> None:
    make_flavor("vast", vcpus=500, memory_mib=256)
    page = desk.page
    page.goto("/instances/new")
    forecast = page.locator(".forecast")
    expect(forecast).to_contain_text("Fits. 9 of 10 instances left in quota.")
    page.get_by_label("How many").fill("11")
    expect(forecast).to_contain_text("Does not fit now.")
    page.get_by_label("How many").fill("1")
    page.get_by_label("Name").fill("web")
    page.get_by_role("radio", name="vast").check()
    expect(forecast).to_contain_text("Ask for at most")
    forecast.get_by_role("button", name="Change the form").first.click()
    expect(forecast).to_contain_text("Fits.")
    expect(page.get_by_role("radio", name="vast")).not_to_be_checked()
    expect(page.get_by_label("Name")).to_have_value("web")
    assert not Instance.unscoped.exists()
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="web", level=1)).to_be_visible()


def test_a_refused_create_offers_its_remedies_in_the_form(desk: Desk) -> None:
    make_flavor("vast", vcpus=500, memory_mib=256)
    page = desk.page
    page.goto("/instances/new")
    page.get_by_label("Name").fill("web")
    page.get_by_role("radio", name="vast").check()
    page.get_by_role("button", name="Create").click()
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("No host can take this now.")
    notice.get_by_role("button", name="Change the form").first.click()
    expect(page.locator(".forecast")).to_contain_text("Fits.")
