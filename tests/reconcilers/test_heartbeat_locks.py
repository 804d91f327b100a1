"""A heartbeat and the end of a delete meet on the same rows; neither may end the other."""

from __future__ import annotations

import threading

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from compute.models import Domain, Host, Instance
from compute.services import nodes
from compute.services.locking import lock_instance
from tests.factories.compute import make_host
from tests.sagas.conftest import Cloud


def test_a_report_waits_for_the_end_of_a_delete(cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    reports = cloud.node.driver.list_domains()
    failures: list[Exception] = []
    begun = threading.Event()

    def report() -> None:
        try:
            begun.set()
            nodes._note_domains(cloud.host, reports, None)
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    reporter = threading.Thread(target=report)
    with transaction.atomic():
        # The order in which the end of a delete takes them: the host's room first, the domain's row last.
        Host.objects.select_for_update(of=("self",)).get(id=cloud.host.id)
        reporter.start()
        begun.wait(5)
        reporter.join(1.0)
        Domain.objects.filter(instance=instance).delete()
    reporter.join(10)
    assert not reporter.is_alive()
    assert failures == []


def test_a_report_does_not_wait_for_who_holds_an_instance(cloud: Cloud) -> None:
    """Else it would hold its new Domain row and wait, while an engine's turn holds the instance and waits for that row."""
    instance = cloud.create_running()
    reports = cloud.node.driver.list_domains()
    Domain.objects.all().delete()

    def report() -> None:
        nodes._note_domains(cloud.host, reports, None)
        connection.close()

    reporter = threading.Thread(target=report)
    with transaction.atomic():
        lock_instance(actor=cloud.actor, instance_id=instance.id, permission="instance.stop")
        reporter.start()
        reporter.join(5)
        waited = reporter.is_alive()
    reporter.join(10)
    assert not waited
    assert Domain.objects.get().instance_id == instance.id


def test_a_report_does_not_wait_for_another_hosts_delete(cloud: Cloud) -> None:
    other = make_host(cloud.pool)
    cloud.create_running()
    reports = cloud.node.driver.list_domains()
    done = threading.Event()

    def report() -> None:
        nodes._note_domains(cloud.host, reports, None)
        done.set()
        connection.close()

    with transaction.atomic():
        Host.objects.select_for_update(of=("self",)).get(id=other.id)
        thread = threading.Thread(target=report)
        thread.start()
        assert done.wait(5)
    thread.join(5)


def test_a_report_that_waited_for_a_delete_makes_no_row_of_the_deleted(cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    reports = cloud.node.driver.list_domains()

    def report() -> None:
        nodes._note_domains(cloud.host, reports, None)
        connection.close()

    reporter = threading.Thread(target=report)
    with transaction.atomic():
        Host.objects.select_for_update(of=("self",)).get(id=cloud.host.id)
        reporter.start()
        reporter.join(1.0)
        Domain.objects.filter(instance=instance).delete()
        Instance.unscoped.filter(id=instance.id).update(state="deleted", host=None)
    reporter.join(10)
    assert not Domain.objects.exists()
    assert [stray["instance_id"] for stray in Host.objects.get(id=cloud.host.id).strays] == [str(instance.id)]


def test_a_report_costs_the_same_queries_for_one_guest_and_for_eight(
    cloud: Cloud, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    cloud.create_running("first")
    cloud.node.beat()
    Domain.objects.update(misses=1)
    with CaptureQueriesContext(connection) as one:
        cloud.node.beat()
    for number in range(7):
        cloud.create_running(f"more-{number}")
    cloud.node.beat()
    Domain.objects.update(misses=1)
    with django_assert_num_queries(len(one)):
        cloud.node.beat()
    assert Domain.objects.filter(power="running", misses=0).count() == 8
