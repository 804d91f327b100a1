"""`python -m compute.node`: the node worker of the host that the environment names.

Exit codes: 0 asked to end, 2 settings, 3 another worker of this host runs, 70 a part of the worker died (the supervisor
starts it anew: half a worker helps nobody).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from compute.node import logs
from compute.node.app import listen, make_app
from compute.node.client import NodeApi
from compute.node.hypervisor import Hypervisor
from compute.node.journal import Journal, JournalTaken
from compute.node.network_sync import NetworkSync, host_network
from compute.node.observer import Observer
from compute.node.runner import Runner
from compute.node.settings import NodeSettings, SettingsError

log = logging.getLogger("compute.node")
HANDOVER_SECONDS = 1.5


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    logs.set_up()
    try:
        settings = NodeSettings.from_env(os.environ)
        api = NodeApi(settings)
        journal = Journal(settings.state_dir / "journal.sqlite")
        sync = NetworkSync(api, host_network(settings), changed=lambda: observer.look_again())
    except SettingsError as error:
        log.error("%s", error)
        return 2
    except JournalTaken as error:
        log.error("%s", error)
        return 3
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    hypervisor = Hypervisor()
    runner = Runner(api, journal, hypervisor, on_finished=lambda: observer.poke())
    observer = Observer(api, hypervisor, runner)
    parts: dict[str, Callable[[], None]] = {"runner": runner.run, "observer": observer.run, "network": sync.run}
    if settings.broker:
        app = make_app(host_id=settings.host_id, broker=settings.broker, wake=runner.wake, ca_file=settings.ca_file)
        parts["doorbell"] = lambda: listen(app, ended)
    for name, part in parts.items():
        _start(name, part, ended)
    log.info("host %s listens", settings.host_id)
    ended.wait()

    log.info("asked to end")
    sync.stop()
    finished = runner.stop()
    if not finished:
        # Their answers (`unknown`) leave in the time that is left, or wait in the journal for the next worker.
        hypervisor.close()
        runner.wait_idle(HANDOVER_SECONDS)
    observer.stop()
    hypervisor.close()
    log.info("ended, all calls finished" if finished else "ended, calls in flight are unknown")
    return 0


def _start(name: str, part: Callable[[], None], ended: threading.Event) -> None:
    """Run a part in a thread whose death, by an exception or by returning too early, takes the process along."""

    def run() -> None:
        try:
            part()
        except BaseException:
            log.exception("%s died", name)
        if not ended.is_set():
            log.error("%s ended, and the worker with it", name)
            os._exit(70)

    threading.Thread(target=run, name=name, daemon=True).start()


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: it would wait for threads that may be blocked on a hung call or a paused broker.
    os._exit(code)
