"""Fence drivers: what proves that a host is off, and what does not."""

from __future__ import annotations

import base64
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compute.fencing.base import FenceFailed, Target
from compute.fencing.command import CommandFence
from compute.fencing.redfish import RedfishFence
from compute.fencing.registry import driver_of, open_fence

HOST = Target(id="0198c5a2-0000-7000-8000-000000000001", name="n0003", address="10.97.0.3")
SYSTEM = "/redfish/v1/Systems/1"


def shell(text: str, seconds: float = 10.0) -> CommandFence:
    return CommandFence(("/bin/sh", "-c", text, "fence", "{host}", "{address}", "{id}"), seconds)


def test_a_command_that_says_off_is_a_proof() -> None:
    assert shell('echo working; echo "off: $1 $2 $3"').power_off(HOST) == f"off: n0003 10.97.0.3 {HOST.id}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 0", "does not begin with off"),
        ("echo offline soon", "does not begin with off"),
        ("echo off; echo but wait", "does not begin with off"),
        ("echo 'off: it is'; echo no such outlet >&2; exit 3", "ended with 3: no such outlet"),
    ],
)
def test_a_command_that_does_not_say_so_proves_nothing(text: str, reason: str) -> None:
    with pytest.raises(FenceFailed, match=reason):
        shell(text).power_off(HOST)


def test_a_command_that_cannot_be_run_proves_nothing() -> None:
    with pytest.raises(FenceFailed, match="cannot be run"):
        CommandFence(("/no/such/program",)).power_off(HOST)


def test_a_command_past_its_deadline_is_killed_with_its_children_and_proves_nothing(tmp_path: Path) -> None:
    child = tmp_path / "child"
    began = time.monotonic()
    with pytest.raises(FenceFailed, match=r"did not end within 0\.3 s"):
        shell(f"sleep 60 & echo $! > {child}; echo off; wait", seconds=0.3).power_off(HOST)
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        _wait_for_end(int(child.read_text()))


def _wait_for_end(pid: int) -> None:
    for _ in range(100):
        os.kill(pid, 0)
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            raise ProcessLookupError
        time.sleep(0.02)


def test_a_command_learns_no_secret_of_the_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CENOTE_SECRET_KEY", "cloud-secret")
    assert "cloud-secret" not in shell("echo off $(env)").power_off(HOST)


class Controller(http.server.BaseHTTPRequestHandler):
    """A management controller with one system: its power goes off `slow` looks after it was told to."""

    power = "On"
    orders: list[str]
    slow = 0
    deaf = False
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/redfish/v1":
            self._say({"@odata.id": "/redfish/v1/", "Id": "Root", "Name": "Root", "RedfishVersion": "1.6.0",
                       "Systems": {"@odata.id": "/redfish/v1/Systems"}, "Links": {}})  # fmt: skip
            return
        if not self._knows():
            return
        kind = type(self)
        if kind.orders and not kind.deaf:
            kind.slow -= 1
            if kind.slow < 0:
                kind.power = "Off"
        reset = {"target": f"{SYSTEM}/Actions/ComputerSystem.Reset", "ResetType@Redfish.AllowableValues": ["ForceOff"]}
        self._say({"@odata.id": SYSTEM, "Id": "1", "Name": "n0003", "PowerState": kind.power, "Status": {},
                   "Actions": {"#ComputerSystem.Reset": reset}, "Boot": {}, "MemorySummary": {}, "Links": {}})  # fmt: skip

    def do_POST(self) -> None:
        if self._knows():
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            type(self).orders.append(body["ResetType"])
            self._say({})

    def log_message(self, *_: object) -> None:
        pass

    def _knows(self) -> bool:
        wanted = "Basic " + base64.b64encode(b"fence:hidden-word").decode()
        if self.headers.get("Authorization") == wanted:
            return True
        self._say({"error": {"message": "who?"}}, 401)
        return False

    def _say(self, data: dict[str, object], status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def controller() -> Iterator[tuple[type[Controller], str]]:
    kind = type("OneController", (Controller,), {"orders": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def redfish(url: str, password: str = "hidden-word", seconds: float = 5.0) -> RedfishFence:
    return RedfishFence(url=url, system=SYSTEM, username="fence", password=password, seconds=seconds)


def test_redfish_forces_off_and_looks_until_it_is(controller: tuple[type[Controller], str]) -> None:
    kind, url = controller
    kind.slow = 1
    assert redfish(url).power_off(HOST) == f"{url}{SYSTEM} says PowerState Off"
    assert kind.orders == ["ForceOff"]


def test_redfish_gives_no_order_to_a_host_that_is_off(controller: tuple[type[Controller], str]) -> None:
    kind, url = controller
    kind.power = "Off"
    assert "Off" in redfish(url).power_off(HOST)
    assert kind.orders == []


def test_redfish_that_takes_the_order_and_stays_on_proves_nothing(controller: tuple[type[Controller], str]) -> None:
    kind, url = controller
    kind.deaf = True
    with pytest.raises(FenceFailed, match="still says On"):
        redfish(url, seconds=0.1).power_off(HOST)
    assert kind.orders == ["ForceOff"]


def test_redfish_tells_nobody_the_password(controller: tuple[type[Controller], str]) -> None:
    _, url = controller
    fence = redfish(url, password="wrong-word")
    with pytest.raises(FenceFailed) as caught:
        fence.power_off(HOST)
    assert "wrong-word" not in f"{caught.value} {fence!r}"


def write(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o600)
    return file


def test_a_host_has_the_driver_of_its_section_else_the_default(tmp_path: Path) -> None:
    write(tmp_path / "word", "hidden-word\n")
    file = write(
        tmp_path / "fencing.toml",
        f"""
        [default]
        driver = "command"
        argv = ["/bin/echo", "off {{host}}"]
        [hosts.n0003]
        driver = "redfish"
        url = "https://bmc/"
        system = "{SYSTEM}"
        username = "fence"
        password_file = "{tmp_path}/word"
        """,
    )
    assert (driver_of(file, "n0003"), driver_of(file, "n0004")) == ("redfish", "command")
    assert open_fence(file, "n0004").power_off(HOST) == "off n0003"
    found: object = open_fence(file, "n0003")
    assert found == RedfishFence(url="https://bmc", system=SYSTEM, username="fence", password="hidden-word")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no driver"),
        ("[default", "cannot be read"),
        ('[default]\ndriver = "ipmitool"', "is command or redfish"),
        ('[default]\ndriver = "command"\nargv = "fence it"', "a list of texts"),
        ('[default]\ndriver = "command"\nargv = ["x"]\nseconds = 900', "a number from 1 to 120"),
        ('[default]\ndriver = "redfish"\nurl = "https://bmc"', "system is missing"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(FenceFailed, match=reason):
        open_fence(write(tmp_path / "fencing.toml", text), "n0003")


def test_a_file_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    file = write(tmp_path / "fencing.toml", '[default]\ndriver = "command"\nargv = ["/bin/echo", "off"]')
    file.chmod(0o666)
    assert driver_of(file, "n0003") == ""
    with pytest.raises(FenceFailed, match="written by others"):
        open_fence(file, "n0003")


def test_without_a_file_no_host_has_a_driver(tmp_path: Path) -> None:
    assert driver_of(tmp_path / "none.toml", "n0003") == ""
