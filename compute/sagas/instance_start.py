"""Start a stopped instance. It makes its ports again, which a host's reboot took, and no disk: one that is missing is missing."""

from compute.sagas.instance_steps import START, clear_error, keep_error
from compute.sagas.step import LocalStep, Saga

SAGA = Saga(
    kind="instance_start",
    target_type="instance",
    # No undo: a started guest is what the tenant wished for.
    steps=(START, LocalStep("settle", do=clear_error)),
    finish_failed=keep_error,
)
