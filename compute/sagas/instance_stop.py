"""Stop an instance: the guest is asked, then its power is cut; `force` cuts at once. No undo: nothing to take back."""

from compute.sagas.instance_steps import clear_error, keep_error, record_power, stop_call
from compute.sagas.step import HostStep, LocalStep, Saga

SAGA = Saga(
    kind="instance_stop",
    target_type="instance",
    steps=(
        HostStep("stop", call=stop_call, done=record_power),
        LocalStep("settle", do=clear_error),
    ),
    finish_failed=keep_error,
)
