"""One lock for the shape of the tenant tree: a sum that goes up the tree must not meet a path that is changing.

Whoever charges, releases or meters holds the tree *shared*, to the end of its transaction: any number at the same time. Only a
move of a tenant takes it alone. It is an advisory lock: it writes no row, and PostgreSQL frees it with the transaction.

Order (never varied): instance and keypair rows -> the tree -> group, host and grant rows -> tenant, membership, token and
usage rows -> quota rows. So whoever locks a host's, a tenant's or a token's row and charges afterwards holds the tree first.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from django.db import connection, transaction

from tenants import prepared
from tenants.models import Tenant

# 1953653093 is "tree" in ASCII. The space of two-number keys is used for nothing else.
# HOLD_SQL may be sent in front of a statement, in one round trip; the statement's snapshot is then newer than the lock.
HOLD_SQL: Final = "SELECT pg_advisory_xact_lock_shared(1953653093, 0);"
_HOLD_ALONE: Final = "SELECT pg_advisory_xact_lock(1953653093, 0)"


def hold() -> None:
    """Keep every path as it is to the end of the transaction. May be asked for again and again."""
    _lock(HOLD_SQL)


def hold_at(tenant_id: UUID) -> Tenant:
    """`hold`, and the tenant as it stands now: the path of one that was read before may have changed."""
    with prepared.together():
        hold()
        # A statement of its own: its snapshot is newer than the lock.
        found = prepared.ask_rows(Tenant, "id = %s", [tenant_id])
    rows = found()
    if not rows:
        raise Tenant.DoesNotExist
    return rows[0]


def hold_alone() -> None:
    """Wait for all charges and releases under way, and keep others out to the end of the transaction.

    First thing in a transaction: whoever waits here while holding a row that a charge needs is in a deadlock.
    """
    _lock(_HOLD_ALONE)


def _lock(sql: str) -> None:
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("outside a transaction the lock would be gone at once")
    prepared.send(sql, [])
