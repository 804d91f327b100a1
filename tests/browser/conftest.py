"""A real Chromium on a live server, with a played host behind it. A broken CSP or a script error fails every test here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from compute.models import Instance, Operation
from tenants.models import User
from tenants.services.access import actor_for_user
from tests.factories.compute import make_image
from tests.factories.nodes import run_to_end
from tests.factories.tenants import PASSWORD, make_member, make_user
from tests.sagas.conftest import Cloud, cloud

__all__ = ["cloud"]

# Playwright's synchronous face runs an event loop in this thread, which Django takes for an asynchronous view.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/browser/" in item.nodeid:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, live_server: object) -> Iterator[Page]:
    """A fresh profile. Relative addresses lead to the live server."""
    context = chromium.new_context(base_url=live_server.url, viewport={"width": 1280, "height": 800})  # type: ignore[attr-defined]
    page = context.new_page()
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "Refused to" in message.text:
            complaints.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    yield page
    context.close()
    assert not complaints


@dataclass
class Desk:
    """A person in front of the portal."""

    page: Page
    user: User
    cloud: Cloud

    def log_in(self) -> None:
        self.page.goto("/login")
        self.page.get_by_label("User name").fill(self.user.username)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("heading", level=1)).to_be_visible()

    def work(self) -> None:
        """Do what the control plane and the host would: end all open operations, then report."""
        for operation in Operation.objects.filter(state__in=["pending", "running", "unwinding"]).order_by("created_at"):
            run_to_end(operation.id, self.cloud.node)
        self.cloud.node.run_calls()
        self.cloud.node.beat()

    def make(self, name: str, **changes: object) -> Instance:
        """A running instance."""
        instance, _ = self.cloud.create(name, **changes)
        self.work()
        return instance


@pytest.fixture
def desk(page: Page, cloud: Cloud) -> Desk:
    user = make_user("ana", password=PASSWORD)
    make_member(cloud.tenant, "owner", user)
    make_image("tiny-container", kind="container")
    cloud.actor = actor_for_user(user=user, tenant_id=cloud.tenant.id)
    desk = Desk(page=page, user=user, cloud=cloud)
    desk.log_in()
    return desk
