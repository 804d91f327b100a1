"""The host's Celery worker: it hears the doorbell and wakes the runner. A message carries a call's id and nothing else,
and even that is not believed: what is due comes from nodeapi."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from compute.broker_acl import queue_name


def make_app(*, host_id: str, broker: str, wake: Callable[[], None]) -> Celery:
    """Return an app whose only task wakes the runner. Key names fit the host's own broker user (`broker_acl`)."""
    queue = queue_name(host_id)
    app = Celery("cenote-node", broker=broker)
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
            "unacked_key": f"unacked.{queue}",
            "unacked_index_key": f"unacked.{queue}.index",
            "unacked_mutex_key": f"unacked.{queue}.mutex",
        },
    )

    @app.task(name="cenote.node.ring")
    def ring(call_id: object = None, *args: object, **kwargs: object) -> None:
        wake()

    return app


def listen(app: Celery) -> None:
    """Run the worker in this (the main) thread until SIGTERM. It comes back from any loss of the broker by itself."""
    worker = app.Worker(
        pool="solo", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True, loglevel="WARNING"
    )
    worker.start()
