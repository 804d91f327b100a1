"""Steps that several kinds of instance operation share."""

from __future__ import annotations

from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from compute.models import Domain, Instance
from compute.sagas.spec import instance_spec, load_instance
from compute.sagas.step import Context, HostOrder, HostStep

GRACEFUL_SECONDS = 20.0
START_DEADLINE_SECONDS = 60.0


def start_call(context: Context) -> HostOrder | None:
    """Have the instance's host define and run it."""
    instance = load_instance(context.target_id)
    assert instance.host_id is not None
    return HostOrder(
        host_id=instance.host_id,
        method="instance.start",
        arguments={"spec": instance_spec(instance).to_json()},
        deadline_seconds=START_DEADLINE_SECONDS,
    )


def prepare_call(context: Context) -> HostOrder | None:
    """Have the instance's host make its disk, seed and ports."""
    instance = load_instance(context.target_id)
    assert instance.host_id is not None
    return HostOrder(
        host_id=instance.host_id,
        method="instance.prepare",
        arguments={"spec": instance_spec(instance).to_json()},
        deadline_seconds=300.0,
    )


def remove_call(context: Context) -> HostOrder | None:
    """Have the instance's host take away all of it. None when it never had a host."""
    instance = load_instance(context.target_id)
    if instance.host_id is None:
        return None
    return HostOrder(host_id=instance.host_id, method="instance.remove", deadline_seconds=90.0)


def stop_call(context: Context) -> HostOrder | None:
    """Have the guest shut down, by force at once when asked to."""
    instance = load_instance(context.target_id)
    assert instance.host_id is not None
    graceful = 0.0 if context.input.get("force") else GRACEFUL_SECONDS
    return HostOrder(
        host_id=instance.host_id,
        method="instance.stop",
        arguments={"graceful_seconds": graceful},
        deadline_seconds=graceful + 30.0,
    )


def reboot_call(context: Context) -> HostOrder | None:
    """Have the guest restart from its definition as it stands now."""
    instance = load_instance(context.target_id)
    assert instance.host_id is not None
    graceful = 0.0 if context.input.get("force") else GRACEFUL_SECONDS
    return HostOrder(
        host_id=instance.host_id,
        method="instance.reboot",
        arguments={"spec": instance_spec(instance).to_json(), "graceful_seconds": graceful},
        deadline_seconds=graceful + START_DEADLINE_SECONDS,
    )


def record_power(context: Context, result: dict[str, Any]) -> None:
    """Write what the host saw at the end of the step, so that nobody waits for the next heartbeat to see it."""
    power = result.get("power")
    instance = Instance.unscoped.get(id=context.target_id)
    if power is None or instance.host_id is None:
        return
    Domain.objects.update_or_create(
        instance=instance,
        host_id=instance.host_id,
        defaults={"power": power, "misses": 0, "observed_at": Now()},
        create_defaults={"power": power, "misses": 0, "observed_at": Now(), "since": Now()},
    )
    Domain.objects.filter(instance=instance, host_id=instance.host_id).exclude(power=power).update(since=Now())


def keep_error(context: Context, error: dict[str, str]) -> None:
    """End of a failed power operation: the instance stays as it is, and says why the last wish failed."""
    Instance.unscoped.filter(id=context.target_id).update(
        error={"code": error["code"], "message": error["message"]}, version=F("version") + 1
    )


def clear_error(context: Context) -> None:
    """End of a successful power operation: an older failure is no longer news."""
    Instance.unscoped.filter(id=context.target_id, error__isnull=False).update(error=None, version=F("version") + 1)


START = HostStep("start", call=start_call, done=record_power)
