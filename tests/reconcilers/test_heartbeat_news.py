"""A heartbeat writes what has changed, and no more: a quiet host of a large cloud must not rewrite all of its guests."""

from __future__ import annotations

from datetime import timedelta

from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext, override_settings

from compute.models import Domain, Host
from compute.selectors.instances import get_instance
from compute.services import nodes
from compute.wire import HostReport
from tests.sagas.conftest import Cloud


def _written(cloud: Cloud) -> int:
    """How many statements of one heartbeat write domains."""
    with CaptureQueriesContext(connection) as captured:
        cloud.node.beat()
    statements = [query["sql"] for query in captured]
    return sum("compute_domain" in sql and sql.startswith(("INSERT", "UPDATE", "DELETE")) for sql in statements)


def test_a_quiet_host_writes_no_domain(cloud: Cloud) -> None:
    for number in range(3):
        cloud.create_running(f"web-{number}")
    cloud.node.beat()
    assert _written(cloud) == 0


def test_what_was_seen_is_as_new_as_the_hosts_listing(cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    Domain.objects.update(observed_at=Now() - timedelta(seconds=100))
    Host.objects.update(observed_at=Now() - timedelta(seconds=100))
    cloud.node.beat()
    shown = get_instance(actor=cloud.actor, reference=str(instance.id))
    assert shown.power_observed_at == Host.objects.get().observed_at  # type: ignore[attr-defined]  # annotated
    assert Domain.objects.get().observed_at < shown.power_observed_at  # type: ignore[attr-defined]


def test_a_change_is_written_at_once(cloud: Cloud) -> None:
    instance = cloud.create_running()
    other = cloud.create_running("other")
    cloud.node.beat()
    since = Domain.objects.get(instance=other).since
    cloud.node.driver.stop(str(instance.id), graceful_seconds=0)
    assert _written(cloud) == 1
    assert Domain.objects.get(instance=instance).power == "stopped"
    assert Domain.objects.get(instance=other).since == since
    assert _written(cloud) == 0


def test_a_row_without_news_is_written_now_and_then(cloud: Cloud) -> None:
    cloud.create_running()
    cloud.node.beat()
    Domain.objects.update(observed_at=Now() - timedelta(seconds=nodes.DOMAIN_WRITTEN_SECONDS + 1))
    assert _written(cloud) == 1
    assert _written(cloud) == 0


def test_one_that_was_missed_once_is_written_when_it_is_seen_again(cloud: Cloud) -> None:
    cloud.create_running()
    cloud.node.beat()
    Domain.objects.update(misses=1)
    assert _written(cloud) == 1
    assert Domain.objects.get().misses == 0


def test_hosts_are_told_how_often_to_report(cloud: Cloud) -> None:
    report = HostReport(boot_id="boot-1", clock="", domains=None)
    with override_settings(HEARTBEAT_SECONDS=15):
        assert nodes.heartbeat(host=cloud.host, report=report).heartbeat_seconds == 15
