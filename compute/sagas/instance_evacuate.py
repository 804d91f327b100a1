"""Start a guest on the host that its books say since its own was lost. The service has moved them, in one transaction.

The start makes no disk: one that is not in the storage is missing, and an empty one in its place would be a loss without
a word. No undo: the guest belongs where it is now; where it does not start, its wish stays and is tried again.
"""

from __future__ import annotations

from compute import outbox
from compute.sagas.instance_steps import START, clear_error, keep_error
from compute.sagas.step import Context, LocalStep, Saga


def _settle(context: Context) -> None:
    clear_error(context)
    _ring(context)


def _ring(context: Context) -> None:
    """There is room for the next start."""
    outbox.ring("evacuation", context.input["evacuation"])


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    keep_error(context, error)
    _ring(context)


SAGA = Saga(
    kind="instance_evacuate",
    target_type="instance",
    steps=(START, LocalStep("settle", do=_settle)),
    finish_failed=_finish_failed,
)
