"""Checks the books and keeps what was found, for pages that show it without asking the database for all of it."""

from __future__ import annotations

from django.db import connection, transaction

from compute import outbox
from compute.models import BookCheck
from compute.selectors.invariants import run_checks
from tenants.services.access import Actor, authorize

SAMPLES = 20
# One check at a time, whoever asks: two would only slow each other down.
_LOCK = 0x626F6F6B73


def check_books() -> bool:
    """Run every check and write one row for each. Return False when another check is in progress: its result is as good."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        (mine,) = cursor.fetchone()
    if not mine:
        return False
    try:
        checked_at = outbox.database_now()
        rows = [
            BookCheck(
                title=result.check.title,
                position=position,
                invariant=result.check.invariant,
                checked_at=checked_at,
                seconds=result.seconds,
                violations=len(result.violations),
                samples=[violation.detail for violation in result.violations[:SAMPLES]],
            )
            for position, result in enumerate(run_checks())
        ]
        with transaction.atomic(durable=True):
            BookCheck.objects.all().delete()
            BookCheck.objects.bulk_create(rows)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
    return True


def request_check(*, actor: Actor) -> None:
    """Have a worker check the books now. Should the bell be lost, the periodic check comes. Raises PermissionDenied."""
    authorize(actor, "ledger.read", None)
    outbox.ring("books")
