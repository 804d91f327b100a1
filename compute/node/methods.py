"""Which driver call stands behind each method of a Call. Runs inside the hypervisor process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from compute.node.drivers.base import Driver, DriverError, Never, RetryLater, Unknown
from compute.wire import WIRE_VERSION, Call, CallAnswer, CallError, InstanceSpec, MigrationJob, Outcome, WireError

Method = Callable[[Driver, Call], dict[str, Any]]


def _prepare(driver: Driver, call: Call) -> dict[str, Any]:
    driver.prepare(_spec(call))
    return {}


def _start(driver: Driver, call: Call) -> dict[str, Any]:
    return {"power": driver.start(_spec(call), token=call.token)}


def _stop(driver: Driver, call: Call) -> dict[str, Any]:
    return {"power": driver.stop(call.target_id, graceful_seconds=_number(call, "graceful_seconds"))}


def _reboot(driver: Driver, call: Call) -> dict[str, Any]:
    seconds = _number(call, "graceful_seconds")
    return {"power": driver.reboot(_spec(call), token=call.token, graceful_seconds=seconds)}


def _resize(driver: Driver, call: Call) -> dict[str, Any]:
    driver.resize(_spec(call), token=call.token)
    return {}


def _remove(driver: Driver, call: Call) -> dict[str, Any]:
    driver.remove(call.target_id)
    return {}


def _receive(driver: Driver, call: Call) -> dict[str, Any]:
    storage_id = call.arguments.get("storage_id")
    if not isinstance(storage_id, str):
        raise WireError("storage_id has to be a text")
    return driver.receive(_spec(call), storage_id=storage_id).to_json()


def _migrate(driver: Driver, call: Call) -> dict[str, Any]:
    job = MigrationJob.from_json(call.arguments.get("job"))
    return driver.migrate(_spec(call), job, stop=_flag(call, "stop")).to_json()


def _look(driver: Driver, call: Call) -> dict[str, Any]:
    return driver.look(call.target_id).to_json()


def _adopt(driver: Driver, call: Call) -> dict[str, Any]:
    return {"power": driver.adopt(_spec(call), token=call.token, resume=_flag(call, "resume"))}


def _withdraw(driver: Driver, call: Call) -> dict[str, Any]:
    driver.withdraw(
        call.target_id,
        paused_too=_flag(call, "paused_too"),
        running_too=_flag(call, "running_too"),
    )
    return {}


def _console_log(driver: Driver, call: Call) -> dict[str, Any]:
    raw = driver.console_log(call.target_id, max_bytes=int(_number(call, "max_bytes")))
    return {"text": raw.decode("utf-8", "replace")}


def _prove(driver: Driver, call: Call) -> dict[str, Any]:
    return driver.prove().to_json()


METHODS: dict[str, Method] = {
    "instance.prepare": _prepare,
    "instance.start": _start,
    "instance.stop": _stop,
    "instance.reboot": _reboot,
    "instance.resize": _resize,
    "instance.remove": _remove,
    "instance.receive": _receive,
    "instance.migrate": _migrate,
    "instance.look": _look,
    "instance.adopt": _adopt,
    "instance.withdraw": _withdraw,
    "instance.console_log": _console_log,
    "host.prove": _prove,
}

# How many calls run at once, by what they mostly do. A lane that is full never holds up another one: a guest that takes
# its minute to stop, or a proof, must not keep an instance from starting. (libvirt's own limit on requests is the
# driver's to keep; most of a `waiting` call is sleep.)
LANES: dict[str, int] = {"quick": 4, "building": 3, "waiting": 6, "moving": 4}
CALLS_AT_ONCE = sum(LANES.values())
_LANE_OF = {
    "instance.prepare": "building",
    "instance.resize": "building",
    "instance.stop": "waiting",
    "instance.reboot": "waiting",
    "instance.receive": "building",
    "instance.migrate": "moving",
    "host.prove": "waiting",
}


def lane_of(method: str) -> str:
    """Return the lane that calls of this method take."""
    return _LANE_OF.get(method, "quick")


_OUTCOMES: dict[type[DriverError], Outcome] = {RetryLater: "retry", Never: "never", Unknown: "unknown"}


def execute(driver: Driver, call: Call) -> CallAnswer:
    """Run one call and put its end into words. Never raises: what a driver lets out beyond its contract is `unknown`.

    A method or version of a newer release is parked (`retry`): during a rolling upgrade it must not fail.
    """
    method, version = METHODS.get(call.method), _version(call)
    if method is None or version > WIRE_VERSION:
        return _end(call, "retry", "unknown_method", f"this host's release does not know {call.method} v{version}")
    try:
        return CallAnswer(call.id, call.token, "done", result=method(driver, call))
    except WireError as error:
        return _end(call, "never", "bad_call", str(error))
    except DriverError as error:
        return _end(call, _OUTCOMES.get(type(error), "unknown"), error.code, str(error))
    except Exception as error:
        return _end(call, "unknown", "driver_fault", f"{type(error).__name__}: {error}")


def _end(call: Call, outcome: Outcome, code: str, message: str) -> CallAnswer:
    return CallAnswer(call.id, call.token, outcome, error=CallError(code, message[:2000]))


def _version(call: Call) -> int:
    """Return the newest version that is in the call: its own, or its spec's."""
    spec = call.arguments.get("spec")
    inner = spec.get("version") if isinstance(spec, dict) else None
    return max(call.version, inner) if isinstance(inner, int) else call.version


def _spec(call: Call) -> InstanceSpec:
    spec = InstanceSpec.from_json(call.arguments.get("spec"))
    if spec.id != call.target_id:
        raise WireError("the spec is of another instance than the call's target")
    return spec


def _flag(call: Call, name: str) -> bool:
    value = call.arguments.get(name, False)
    if not isinstance(value, bool):
        raise WireError(f"{name} has to be true or false")
    return value


def _number(call: Call, name: str) -> float:
    value = call.arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise WireError(f"{name} has to be a number of 0 or more")  # NaN is none: it compares with nothing
    return float(value)
