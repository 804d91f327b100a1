"""The only writer of state columns: compare-and-set against the tables in `states`.

Every move is one UPDATE whose WHERE names the states it may leave. Zero rows mean that somebody else was faster or that
the arrow does not exist: TransitionRefused, and the caller's transaction rolls back.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F

from compute import states
from compute.errors import TransitionRefused

_MACHINES: dict[tuple[str, str], states.Machine] = {
    ("instance", "state"): states.INSTANCE,
    ("operation", "state"): states.OPERATION,
    ("hostcall", "state"): states.HOST_CALL,
    ("migration", "state"): states.MIGRATION,
    ("fence", "state"): states.FENCE,
    ("evacuation", "state"): states.EVACUATION,
    ("plan", "state"): states.PLAN,
    ("planstep", "state"): states.PLAN_STEP,
    ("host", "admin_state"): states.HOST_ADMIN,
    ("host", "observed_state"): states.HOST_OBSERVED,
}


def sources(machine: states.Machine, target: str) -> frozenset[str]:
    """Return the states from which `target` can be reached in one step."""
    return frozenset(state for state, targets in machine.items() if target in targets)


def move(row: models.Model, target: str, *, column: str = "state", **changes: Any) -> None:
    """Move `row` to `target` and write `changes` with it; the instance in memory is brought up to date.

    Raises TransitionRefused when the row in the database is not in a state that leads to `target`.
    """
    machine = _MACHINES[(row._meta.model_name or "", column)]
    allowed = sources(machine, target)
    manager = getattr(type(row), "unscoped", type(row)._default_manager)
    values: dict[str, Any] = {column: target, **changes}
    if any(f.name == "version" for f in row._meta.concrete_fields):
        values["version"] = F("version") + 1
    changed = manager.filter(pk=row.pk, **{f"{column}__in": allowed}).update(**values)
    if not changed:
        raise TransitionRefused(
            f"{row._meta.verbose_name} {row.pk} cannot become {target} now",
            wanted=target,
            allowed=sorted(allowed),
        )
    setattr(row, column, target)
    for name, value in changes.items():
        setattr(row, name, value)
    if "version" in values:
        row.version += 1  # type: ignore[attr-defined]
