from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from compute.node.drivers.fake import FakeDriver
from compute.node.drivers.faults import Fault
from compute.node.drivers.settings import DriverSettings
from compute.node.methods import LANES, METHODS, execute, lane_of
from compute.wire import WIRE_VERSION, CallAnswer, HostProof
from tests.node.orders import a_call, a_spec, an_id


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    return FakeDriver(DriverSettings(4, 4096, 100, shared_dir=tmp_path, local_dir=tmp_path))


def ending(answer: CallAnswer) -> tuple[str, str]:
    return answer.outcome, answer.error.code if answer.error else ""


def test_a_life_by_calls(driver: FakeDriver) -> None:
    instance = an_id()
    lives: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("instance.prepare", {}, {}),
        ("instance.start", {}, {"power": "running"}),
        ("instance.console_log", {"max_bytes": 100}, {"text": "cenote: web is up\n"}),
        ("instance.reboot", {"graceful_seconds": 1}, {"power": "running"}),
        ("instance.stop", {"graceful_seconds": 1.5}, {"power": "stopped"}),
        ("instance.resize", {}, {}),
        ("instance.start", {}, {"power": "running"}),
        ("instance.withdraw", {"running_too": True}, {}),
        ("instance.remove", {}, {}),
    ]
    for method, arguments, result in lives:
        call = a_call(method, instance, **arguments)
        assert execute(driver, call) == CallAnswer(call.id, call.token, "done", result=result)
    assert driver.list_domains() == ()
    proof = execute(driver, a_call("host.prove", an_id()))
    assert HostProof.from_json(proof.result).ok


def test_the_token_reaches_the_domain(driver: FakeDriver) -> None:
    instance = an_id()
    execute(driver, a_call("instance.prepare", instance))
    execute(driver, a_call("instance.start", instance, token=77))
    assert [domain.token for domain in driver.list_domains()] == [77]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("instance.prepare", {"spec": None}),
        ("instance.prepare", {"spec": {}}),
        ("instance.prepare", {"spec": {**a_spec("someone-else").to_json()}}),
        ("instance.prepare", {"spec": {**a_spec("x").to_json(), "vcpus": "1"}}),
        ("instance.start", {"spec": [1, 2]}),
        ("instance.stop", {}),
        ("instance.stop", {"graceful_seconds": -1}),
        ("instance.stop", {"graceful_seconds": "soon"}),
        ("instance.stop", {"graceful_seconds": True}),
        ("instance.stop", {"graceful_seconds": float("nan")}),
        ("instance.reboot", {"graceful_seconds": None}),
        ("instance.withdraw", {"running_too": 1}),
        ("instance.withdraw", {"paused_too": "no"}),
        ("instance.console_log", {"max_bytes": None}),
        ("instance.console_log", {"max_bytes": float("inf")}),
    ],
)
def test_malformed_arguments_never(driver: FakeDriver, method: str, arguments: dict[str, Any]) -> None:
    assert ending(execute(driver, a_call(method, an_id(), **arguments))) == ("never", "bad_call")
    assert driver.list_disks() == ()


def test_what_a_newer_release_says_is_parked(driver: FakeDriver) -> None:
    instance, newer = an_id(), WIRE_VERSION + 1
    calls = [
        a_call("instance.teleport", instance),
        dataclasses.replace(a_call("instance.remove", instance), version=newer),
        a_call("instance.prepare", instance, spec={**a_spec(instance).to_json(), "version": newer}),
        a_call("instance.prepare", instance, spec={"version": newer}),
    ]
    assert {ending(execute(driver, call)) for call in calls} == {("retry", "unknown_method")}


@pytest.mark.parametrize("kind", ["retry", "never", "unknown"])
def test_the_drivers_word_decides_the_outcome(driver: FakeDriver, kind: str) -> None:
    driver.inject(Fault("prepare", kind, code="because"))  # type: ignore[arg-type]
    assert ending(execute(driver, a_call("instance.prepare", an_id()))) == (kind, "because")


def test_what_no_driver_may_raise_is_unknown(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("x" * 10_000)

    monkeypatch.setattr(driver, "remove", broken)
    answer = execute(driver, a_call("instance.remove", an_id()))
    assert ending(answer) == ("unknown", "driver_fault")
    assert answer.error is not None
    assert len(answer.error.message) <= 2000


def test_every_method_has_a_lane() -> None:
    assert {lane_of(method) for method in (*METHODS, "unheard.of")} == set(LANES)
    assert lane_of("instance.start") == "quick"
