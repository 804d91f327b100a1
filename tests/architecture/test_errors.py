"""Every domain error has its HTTP status, and every status its error."""

from __future__ import annotations

import compute.errors
import tenants.errors
from cloud.problems import STATUSES
from tenants.errors import DomainError


def _codes() -> set[str]:
    found = set()
    waiting = [DomainError]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__ in (compute.errors.__name__, tenants.errors.__name__):
                found.add(kind.code)
    return found


def test_errors_and_statuses_agree() -> None:
    assert _codes() == set(STATUSES)
