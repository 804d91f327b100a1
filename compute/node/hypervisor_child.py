"""The process that holds the driver, and with it the connections to libvirt. Started and watched by `hypervisor`.

It reads one JSON object a line from its standard input and writes one a line back, in any order. When the input ends its
parent has died, and so does it, at once: guests are libvirt's and run on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from compute.node import logs
from compute.node.drivers.base import Driver, DriverError
from compute.node.drivers.registry import open_driver
from compute.node.drivers.settings import DriverSettings
from compute.node.hypervisor import READY
from compute.node.methods import CALLS_AT_ONCE, execute
from compute.node.network.ports import PortManager
from compute.node.network.settings import NetworkSettings
from compute.node.settings import NodeSettings
from compute.wire import Call, TenantShares

LOOKS_AT_ONCE = 2

_Message = dict[str, Any]


def _listen(inbox: SimpleQueue[_Message]) -> None:
    """Read orders until the parent is gone. In a thread of its own, so that not even a driver that hangs while it is
    opened keeps this process alive longer than its parent."""
    try:
        for line in sys.stdin.buffer:
            inbox.put(json.loads(line))
    finally:
        _die(0)


def _die(status: int) -> None:
    try:
        if os.getpgid(0) == os.getpid():
            # Helpers go along. Whether the parent lives to see to it is not certain here.
            os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(status)


def _serve(driver: Driver, inbox: SimpleQueue[_Message], out_fd: int) -> None:
    write_lock = threading.Lock()

    def reply(number: int, body: dict[str, Any]) -> None:
        view = memoryview(json.dumps({"id": number, **body}).encode() + b"\n")
        with write_lock:
            while view:
                view = view[os.write(out_fd, view) :]

    def work(number: int, what: str, body: dict[str, Any]) -> None:
        try:
            reply(number, {"ok": _do(driver, what, body)})
        except DriverError as error:
            reply(number, {"error": error.code, "message": str(error)[:500]})
        except Exception as error:
            reply(number, {"error": "driver_fault", "message": f"{type(error).__name__}: {error}"[:500]})
        except BaseException:
            # A death that a fault asked for, or the interpreter's own end: no thread of this process may outlive it.
            _die(70)

    reply(READY, {})
    with ThreadPoolExecutor(CALLS_AT_ONCE) as calls, ThreadPoolExecutor(LOOKS_AT_ONCE) as looks:
        while True:
            message = inbox.get()
            pool = calls if message["what"] == "call" else looks
            pool.submit(work, message["id"], message["what"], message.get("body") or {})


def _do(driver: Driver, what: str, body: dict[str, Any]) -> Any:
    if what == "call":
        return execute(driver, Call.from_json(body)).to_json()
    if what == "domains":
        return [report.to_json() for report in driver.list_domains()]
    if what == "disks":
        return list(driver.list_disks())
    if what == "inventory":
        return driver.inventory().to_json()
    if what == "partitions":
        return [report.to_json() for report in driver.list_partitions()]
    if what == "weigh":
        driver.weigh(tuple(TenantShares.from_json(item) for item in body["shares"]))
        return True
    raise ValueError(f"unknown request {what}")


def open_host_driver(settings: NodeSettings) -> Driver:
    """Return the driver of this host with its network behind it."""
    driver_settings: DriverSettings = settings.driver
    network = PortManager(
        NetworkSettings(run_dir=driver_settings.network_dir, underlay_address=settings.underlay_address)
    )
    return open_driver(settings.driver_name, driver_settings, network)


if __name__ == "__main__":
    # Whatever a library prints must not end up between two answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    logs.set_up()
    orders: SimpleQueue[_Message] = SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), name="orders", daemon=True).start()
    _serve(open_host_driver(NodeSettings.from_env(os.environ)), orders, answers)
