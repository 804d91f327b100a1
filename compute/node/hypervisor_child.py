"""The process that holds the driver, and with it the connections to libvirt. Started and watched by `hypervisor`.

It reads one JSON object a line from its standard input and writes one a line back, in any order. When the input ends its
parent has died, and so does it, at once: guests are libvirt's and run on.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from compute.node.drivers.base import Driver, DriverError
from compute.node.drivers.registry import open_driver
from compute.node.drivers.settings import DriverSettings
from compute.node.methods import execute
from compute.node.network.ports import PortManager
from compute.node.network.settings import NetworkSettings
from compute.node.settings import NodeSettings
from compute.wire import Call

# libvirtd serves at most five calls of one connection at a time; the rest is for looking while they run.
CALLS_AT_ONCE = 5


def _serve(driver: Driver, out_fd: int) -> None:
    write_lock = threading.Lock()

    def reply(number: int, body: dict[str, Any]) -> None:
        line = json.dumps({"id": number, **body}).encode() + b"\n"
        with write_lock:
            view = memoryview(line)
            while view:
                view = view[os.write(out_fd, view) :]

    def work(number: int, what: str, body: dict[str, Any]) -> None:
        try:
            reply(number, {"ok": _do(driver, what, body)})
        except DriverError as error:
            reply(number, {"error": error.code, "message": str(error)[:500]})
        except Exception as error:
            reply(number, {"error": "driver_fault", "message": f"{type(error).__name__}: {error}"[:500]})

    with ThreadPoolExecutor(CALLS_AT_ONCE) as calls, ThreadPoolExecutor(2) as looks:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            pool = calls if message["what"] == "call" else looks
            pool.submit(work, message["id"], message["what"], message.get("body") or {})
        os._exit(0)


def _do(driver: Driver, what: str, body: dict[str, Any]) -> Any:
    if what == "call":
        return execute(driver, Call.from_json(body)).to_json()
    if what == "domains":
        return [report.to_json() for report in driver.list_domains()]
    if what == "disks":
        return list(driver.list_disks())
    if what == "inventory":
        return driver.inventory().to_json()
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
    _serve(open_host_driver(NodeSettings.from_env(os.environ)), answers)
