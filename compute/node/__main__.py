"""`python -m compute.node`: the node worker of the host that the environment names."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import Any

from compute.node.app import listen, make_app
from compute.node.client import NodeApi
from compute.node.hypervisor import Hypervisor
from compute.node.journal import Journal
from compute.node.network.ports import PortManager
from compute.node.network.settings import NetworkSettings
from compute.node.observer import Observer
from compute.node.runner import Runner
from compute.node.settings import NodeSettings, SettingsError
from compute.wire import NetworkSpec, NicSpec

log = logging.getLogger("cenote.node")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        settings = NodeSettings.from_env(os.environ)
    except SettingsError as error:
        log.error("%s", error)
        return 2
    api = NodeApi(settings)
    journal = Journal(settings.state_dir / "journal.sqlite")
    journal.prune()
    hypervisor = Hypervisor()
    runner = Runner(api, journal, hypervisor, on_finished=lambda: observer.poke())
    observer = Observer(api, hypervisor, runner, apply_network=_network_of(settings))
    threads = [_guarded("observer", observer.run), _guarded("runner", runner.run)]
    for thread in threads:
        thread.start()
    log.info("host %s listens", settings.host_id)
    try:
        if settings.broker:
            listen(make_app(host_id=settings.host_id, broker=settings.broker, wake=runner.wake))
        else:
            _wait_for_the_end()
    except SystemExit:
        log.info("asked to end")
    finally:
        runner.stop()
        observer.stop()
        hypervisor.close()
    return 0


def _guarded(name: str, target: Any) -> threading.Thread:
    """A thread whose death takes the process along: the supervisor starts it anew, half a worker helps nobody."""

    def run() -> None:
        try:
            target()
        except BaseException:
            log.exception("%s died", name)
            os._exit(70)

    return threading.Thread(target=run, name=name, daemon=True)


def _wait_for_the_end() -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _network_of(settings: NodeSettings) -> Any:
    """Return what applies nodeapi's view of the network to this host. The fake driver has none."""
    if settings.driver_name == "fake":
        return lambda view: None
    ports = PortManager(
        NetworkSettings(run_dir=settings.driver.network_dir, underlay_address=settings.underlay_address)
    )

    def apply(view: dict[str, Any]) -> None:
        ports.restore(
            [NetworkSpec.from_json(item) for item in view["networks"]],
            [item["address"] for item in view["hosts"]],
            [NicSpec.from_json(item) for item in view["ports"]],
        )

    return apply


if __name__ == "__main__":
    sys.exit(main())
