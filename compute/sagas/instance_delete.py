"""Delete an instance. Room and quota go back only after its host has shown that nothing of it is left.

No step has an undo: a disk that is gone does not come back. A delete that cannot reach the host ends failed, the
instance in `error` still holding its room, and may be asked for again.
"""

from __future__ import annotations

from django.db.models.functions import Now

from compute.models import Instance
from compute.placement.give_back import free_addresses, give_back
from compute.sagas.instance_steps import remove_call
from compute.sagas.step import Context, HostStep, LocalStep, Saga
from compute.transitions import move


def _mark(context: Context) -> None:
    instance = Instance.unscoped.get(id=context.target_id)
    if instance.state != "deleting":
        move(instance, "deleting")


def _settle(context: Context) -> None:
    instance = Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    give_back(instance=instance)
    free_addresses(instance=instance)
    instance.domains.all().delete()
    move(instance, "deleted", host=None, error=None, user_data="", deleted_at=Now())


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    instance = Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    # Still deleting for the ledger's sake until asked again; the error says why.
    if instance.state == "deleting" and instance.host_id is not None:
        move(instance, "error", error={"code": error["code"], "message": error["message"]})


SAGA = Saga(
    kind="instance_delete",
    target_type="instance",
    steps=(
        LocalStep("mark", do=_mark),
        HostStep("remove", call=remove_call),
        LocalStep("settle", do=_settle),
    ),
    finish_failed=_finish_failed,
)
