"""A round of reconcilers: what fails in one of them keeps none of the others from its turn."""

from __future__ import annotations

import logging
from typing import NoReturn

import pytest
from django.db import OperationalError

from compute.models import Host
from compute.reconcilers import brokers, fences, instances
from compute.tasks import periodic
from tests.factories.compute import make_host, make_pool


@pytest.mark.parametrize(("error", "level"), [(OperationalError("deadlock"), "WARNING"), (KeyError("bug"), "ERROR")])
def test_a_reconciler_that_fails_is_logged_and_the_others_go_on(
    transactional_db: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    level: str,
) -> None:
    host = make_host(make_pool())
    Host.objects.filter(id=host.id).update(observed_state="up", last_seen_at="2020-01-01T00:00:00Z")
    ran = []

    def fail() -> NoReturn:
        raise error

    monkeypatch.setattr(fences, "run", fail)
    monkeypatch.setattr(instances, "run", lambda: ran.append("instances"))
    monkeypatch.setattr(brokers, "run", lambda client: ran.append("brokers"))
    with caplog.at_level(logging.WARNING, logger="compute.tasks.periodic"):
        periodic.reconcile()
    assert ran == ["instances", "brokers"]
    host.refresh_from_db()
    assert host.observed_state == "suspect", "those before it did their work"
    assert [record.levelname for record in caplog.records if record.name == periodic.__name__] == [level]
