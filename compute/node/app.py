"""The host's Celery worker: it hears the doorbell and wakes the runner. A message carries a call's id and nothing else,
and even that is not believed: what is due comes from nodeapi. So nothing here is needed for correctness, only for speed.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.worker import WorkController
from kombu.connection import Connection

from compute.broker_acl import queue_name

log = logging.getLogger(__name__)
AGAIN_SECONDS = 2.0
PAUSE_LIMIT_SECONDS = 4.0  # Celery's own is 32: after a broker's hour off, half a minute of deafness


class _Connection(Connection):
    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        return super().ensure_connection(*args, **{"interval_max": PAUSE_LIMIT_SECONDS} | kwargs)  # type: ignore[no-untyped-call]


def make_app(*, host_id: str, broker: str, wake: Callable[[], None], ca_file: Path | None = None) -> Celery:
    """Return an app whose only task wakes the runner. Key names fit the host's own broker user (`broker_acl`).

    A broker at rediss:// has to show a certificate of `ca_file` for the name in its address.
    """
    queue = queue_name(host_id)
    app = Celery("cenote-node", broker=broker, set_as_current=False)
    app.amqp.Connection = _Connection
    app.conf.update(
        task_default_queue=queue,
        task_ignore_result=True,
        task_acks_late=False,
        accept_content=["json"],
        task_serializer="json",
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_connect_timeout": 2,
            "socket_timeout": 5,
            # Early acknowledgement needs no emulated one, whose clean-up runs a script: hosts may run none (`broker_acl`).
            "ack_emulation": False,
        },
    )

    if broker.startswith("rediss://"):
        app.conf.broker_use_ssl = {
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_check_hostname": True,
            **({"ssl_ca_certs": str(ca_file)} if ca_file else {}),
        }

    def ring(*args: object, **kwargs: object) -> None:
        wake()

    app.task(name="cenote.node.ring")(ring)
    return app


def listen(app: Celery, stopping: threading.Event) -> None:
    """Hear the doorbell until `stopping`, in a thread of its own. It comes back from any loss of the broker by itself.

    No death in here may reach the runner: without a doorbell it sweeps, and calls in flight go on. `WorkController` is
    Celery's worker without its signal handlers, which are the process's own matter (a paused broker would hold up the end).
    """
    while not stopping.is_set():
        try:
            worker = WorkController(
                app=app,
                pool_cls="solo",
                concurrency=1,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
            )
            worker.start()
        except Exception:
            log.exception("the doorbell's worker died")
        if not stopping.wait(AGAIN_SECONDS):
            log.warning("starting the doorbell's worker again")
