"""Domain errors of compute. No HTTP here: `cloud/problems.py` maps each code to a status and a title.

A code, once given, is never changed and never used for something else.
"""

from __future__ import annotations

from tenants.errors import DomainError


class NoValidHost(DomainError):
    """No host can take the request. `data`: `tally` (filter -> hosts), `reasons` (sentences), `remedies`."""

    code = "no_valid_host"


class OperationInProgress(DomainError):
    """Another operation on the same object is open. `data`: `operation_id`."""

    code = "operation_in_progress"


class InvalidState(DomainError):
    """The object is not in a state that allows this. `data`: `state`, `allowed`."""

    code = "invalid_state"


class NotMovable(DomainError):
    """The instance cannot be taken to another host as it stands. `data`: `obstacles`, [{code, detail}]."""

    code = "not_movable"


class PlanOutdated(DomainError):
    """What a plan rests on has changed. `data`: `difference`, [{about, planned, now}]."""

    code = "plan_outdated"


class PlanRefused(DomainError):
    """The plan would break a rule. `data`: `refusals`, [{code, detail}]."""

    code = "plan_refused"


class TransitionRefused(DomainError):
    """A state column changed under the writer, or the arrow does not exist. Nothing was written."""

    code = "transition_refused"


class HostUnavailable(DomainError):
    """The host that would have to do or tell this does not answer. Try again later."""

    code = "host_unavailable"


class JoinRefused(DomainError):
    """A one-time join token is unknown, used or expired, or the request does not fit it."""

    code = "join_refused"


class StaleAnswer(DomainError):
    """A host answered a call that is not its own, not open, or superseded. The answer changes nothing."""

    code = "stale_answer"


class HostInUse(DomainError):
    """The host still carries instances. `data`: `instances`."""

    code = "host_in_use"


class InUse(DomainError):
    """The object is used by others and cannot be removed. `data` names them."""

    code = "in_use"


class PromiseNotPlaceable(DomainError):
    """The pool cannot keep this promise through the host losses that its policy names.

    `data`: `pool`, `placeable`, `promised` (units), `host_losses`.
    """

    code = "promise_not_placeable"


class NoAddressLeft(DomainError):
    """The pool's network has no free address."""

    code = "no_address_left"
