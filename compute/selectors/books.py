"""What the last check of the books found, for pages: a few rows, however large the cloud."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from compute.models import BookCheck
from compute.selectors.invariants import CHECKS, Check
from tenants.services.access import Actor, authorize


@dataclass(frozen=True, slots=True)
class Books:
    """Every check with its last result (None: not checked yet), in order. `seconds` of all together."""

    checks: tuple[tuple[Check, BookCheck | None], ...]

    @property
    def checked_at(self) -> datetime | None:
        """When the oldest of the results was found; None where one is missing."""
        times = [row.checked_at for _, row in self.checks if row is not None]
        return min(times) if len(times) == len(self.checks) else None

    @property
    def seconds(self) -> float:
        return sum(row.seconds for _, row in self.checks if row is not None)

    @property
    def violations(self) -> int:
        return sum(row.violations for _, row in self.checks if row is not None)


def read_books(*, actor: Actor) -> Books:
    """Return what the last check found. For operators. Raises PermissionDenied."""
    authorize(actor, "ledger.read", None)
    rows = {row.title: row for row in BookCheck.objects.all()}
    return Books(tuple((check, rows.get(check.title)) for check in CHECKS))
