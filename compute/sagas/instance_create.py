"""Make an instance that the service has already placed, claimed and charged for.

The claim is the service's; its undo is `finish_failed`, after the host has shown (or owes) that nothing is left.
"""

from __future__ import annotations

from compute.models import Instance
from compute.placement.give_back import free_addresses, give_back
from compute.sagas.instance_steps import prepare_call, record_power, remove_call, start_call
from compute.sagas.step import Context, HostStep, LocalStep, Saga
from compute.transitions import move
from tenants.services import metering


def _activate(context: Context) -> None:
    instance = Instance.unscoped.get(id=context.target_id)
    move(instance, "active", error=None)
    metering.commit(consumer_id=instance.id)


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    instance = Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    give_back(instance=instance)
    free_addresses(instance=instance)
    # A listing taken while it still ran would say so until the next one; what a host still owes is a stray from now on.
    instance.domains.all().delete()
    move(instance, "failed", host=None, error={"code": error["code"], "message": error["message"]})


SAGA = Saga(
    kind="instance_create",
    target_type="instance",
    steps=(
        # `remove` works from the id alone, also on a half-made disk: it undoes both steps, so only the first names it.
        HostStep("prepare", call=prepare_call, undo=remove_call),
        HostStep("start", call=start_call, done=record_power),
        LocalStep("activate", do=_activate),
    ),
    finish_failed=_finish_failed,
    cancellable=True,
)
