"""Give a stopped instance another size, on its own host. The service has claimed and charged what it takes more.

Either end is one `cut` of the books: to the new size when the host has done it, to the old one when it is undone.
"""

from __future__ import annotations

import uuid
from typing import Any

from compute.models import Flavor, Instance
from compute.placement.resize import cut
from compute.sagas.instance_steps import clear_error, keep_error
from compute.sagas.spec import instance_spec, load_instance
from compute.sagas.step import Context, HostOrder, HostStep, LocalStep, Saga
from compute.scheduler.model import Resources


def _size(wanted: dict[str, Any]) -> Resources:
    return Resources(vcpus=wanted["vcpus"], memory_mib=wanted["memory_mib"], disk_gib=wanted["disk_gib"])


def _order(context: Context, wanted: dict[str, Any]) -> HostOrder:
    instance = load_instance(context.target_id)
    assert instance.host_id is not None
    # In memory alone: the row holds the larger of both sizes until the end.
    instance.flavor = Flavor.objects.get(id=uuid.UUID(wanted["flavor"]))
    instance.vcpus, instance.memory_mib, instance.disk_gib = wanted["vcpus"], wanted["memory_mib"], wanted["disk_gib"]
    return HostOrder(
        host_id=instance.host_id,
        method="instance.resize",
        arguments={"spec": instance_spec(instance).to_json()},
        deadline_seconds=90.0,
    )


def _resize(context: Context) -> HostOrder:
    return _order(context, context.input["after"])


def _restore(context: Context) -> HostOrder:
    return _order(context, context.input["before"])


def _cut_to(context: Context, wanted: dict[str, Any]) -> None:
    instance = Instance.unscoped.select_for_update(no_key=True).get(id=context.target_id)
    cut(instance=instance, size=_size(wanted), flavor=Flavor.objects.get(id=uuid.UUID(wanted["flavor"])))


def _settle(context: Context) -> None:
    _cut_to(context, context.input["after"])
    clear_error(context)


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    _cut_to(context, context.input["before"])
    keep_error(context, error)


SAGA = Saga(
    kind="instance_resize",
    target_type="instance",
    steps=(
        HostStep("resize", call=_resize, undo=_restore),
        LocalStep("settle", do=_settle),
    ),
    finish_failed=_finish_failed,
    cancellable=True,
)
