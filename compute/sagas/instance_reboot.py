"""Restart an instance from its definition as it stands now. No undo: a guest that was stopped is started by the next try."""

from compute.sagas.instance_steps import clear_error, keep_error, reboot_call, record_power
from compute.sagas.step import HostStep, LocalStep, Saga

SAGA = Saga(
    kind="instance_reboot",
    target_type="instance",
    steps=(
        HostStep("reboot", call=reboot_call, done=record_power),
        LocalStep("settle", do=clear_error),
    ),
    finish_failed=keep_error,
)
