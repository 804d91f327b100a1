"""What beat starts. Each is safe to run twice at the same time, and late."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import redis
from celery import shared_task
from django.conf import settings
from django.db import OperationalError, connection

from compute.reconcilers import brokers, evacuations, fences, hosts, instances, leases, operations, plans, promises
from compute.sagas.engine import take_turn
from compute.services import books
from compute.services.housekeeping import expire

log = logging.getLogger(__name__)


@shared_task(name="compute.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Give every due operation a turn, whatever became of its doorbell."""
    for operation_id in operations.due_operations():
        try:
            take_turn(operation_id)
        except OperationalError as error:
            log.warning("operation %s waits for the database: %s", operation_id, error)


@shared_task(name="compute.reconcile")  # type: ignore[untyped-decorator]
def reconcile() -> None:
    """Hosts first: what is concluded about instances rests on which hosts are up."""
    with _by_itself("hosts"):
        hosts.run()
    with _by_itself("fences"):
        fences.run()
    with _by_itself("evacuations"):
        evacuations.run()
    with _by_itself("instances"):
        instances.run()
    with _by_itself("leases"):
        leases.run()
    with _by_itself("plans"):
        plans.run()
    with _by_itself("promises"):
        promises.run()
    with _by_itself("brokers"):
        client = redis.Redis.from_url(_plain(settings.BROKER_URL), socket_timeout=2, socket_connect_timeout=2)
        try:
            brokers.run(client)
        finally:
            client.close()


@contextlib.contextmanager
def _by_itself(name: str) -> Iterator[None]:
    """One that fails is in the log, and comes again with the next round; the others have their turn all the same."""
    try:
        yield
    except OperationalError as error:
        log.warning("reconciler %s waits for the database: %s", name, error)
        connection.close_if_unusable_or_obsolete()
    except Exception:
        log.exception("reconciler %s failed", name)


@shared_task(name="compute.expire")  # type: ignore[untyped-decorator]
def expire_old() -> None:
    """Drop what has served its time."""
    expire()


@shared_task(name="compute.check_books")  # type: ignore[untyped-decorator]
def check_books() -> None:
    """Check every invariant and keep what was found."""
    books.check_books()


def _plain(broker_url: str) -> str:
    """kombu and redis-py spell a unix socket differently."""
    return broker_url.replace("redis+socket://", "unix://", 1)
