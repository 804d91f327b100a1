"""Start a stopped instance. `prepare` comes first: after a host's reboot its ports have to be made again."""

from compute.sagas.instance_steps import clear_error, keep_error, prepare_call, record_power, start_call
from compute.sagas.step import HostStep, LocalStep, Saga

SAGA = Saga(
    kind="instance_start",
    target_type="instance",
    steps=(
        # No undo: preparing changes nothing that exists, and a started guest is what the tenant wished for.
        HostStep("prepare", call=prepare_call),
        HostStep("start", call=start_call, done=record_power),
        LocalStep("settle", do=clear_error),
    ),
    finish_failed=keep_error,
)
