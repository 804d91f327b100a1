"""The relay: LISTENs on PostgreSQL and rings Redis. The only publisher of the control plane.

Notifications are a hint; every `sweep_seconds` it also rings for what is due in the rows, so a notification, a message
or all of Redis may be lost. It rings with short time-outs and drops what the broker does not take: the sweep comes again.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator

import psycopg
from celery import Celery
from django.db import DatabaseError, close_old_connections, connection
from kombu.exceptions import OperationalError as BrokerError

from compute.outbox import CHANNEL
from compute.reconcilers.operations import due_operations, waiting_calls

log = logging.getLogger(__name__)

_TASKS = {"fence": "compute.fence_try", "evacuation": "compute.evacuation_turn", "plan": "compute.plan_turn"}


class Relay:
    """`run` until told to stop. One connection to the database for listening, one to the broker."""

    def __init__(self, app: Celery, *, sweep_seconds: float) -> None:
        self._app = app
        self._sweep_seconds = sweep_seconds
        self._stopping = False
        self._broker_down_until = 0.0

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        while not self._stopping:
            try:
                self._listen()
            except (psycopg.Error, DatabaseError) as error:
                log.warning("lost the database, trying again: %s", str(error).strip())
                connection.close()
                time.sleep(1)

    def _listen(self) -> None:
        parameters = connection.get_connection_params()
        parameters.pop("cursor_factory", None)
        parameters.pop("context", None)
        with psycopg.connect(**parameters, autocommit=True) as listener:
            listener.execute(f"LISTEN {CHANNEL}")
            next_sweep = 0.0
            while not self._stopping:
                if time.monotonic() >= next_sweep:
                    self._sweep()
                    next_sweep = time.monotonic() + self._sweep_seconds
                for note in self._notes(listener, max(0.05, next_sweep - time.monotonic())):
                    self._deliver(note)

    def _notes(self, listener: psycopg.Connection, timeout: float) -> Iterator[str]:
        # stop_after=1: a burst is handed over note by note as it comes, not collected until the time-out.
        for note in listener.notifies(timeout=min(timeout, 1.0), stop_after=1):
            yield note.payload

    def _sweep(self) -> None:
        close_old_connections()
        for operation_id in due_operations():
            self._ring_operation(operation_id)
        for host_id, call_id in waiting_calls():
            self._ring_host(host_id, call_id)

    def _deliver(self, payload: str) -> None:
        kind, *ids = payload.split(":")
        try:
            parsed = [uuid.UUID(text) for text in ids]
        except ValueError:
            return
        if kind == "books" and not parsed:
            self._publish("compute.check_books", [], "control")
        elif kind == "op" and len(parsed) == 1:
            self._ring_operation(parsed[0])
        elif kind in _TASKS and len(parsed) == 1:
            self._publish(_TASKS[kind], [str(parsed[0])], "control")
        elif kind == "host" and len(parsed) == 2:
            self._ring_host(*parsed)

    def _ring_operation(self, operation_id: uuid.UUID) -> None:
        self._publish("compute.operation_turn", [str(operation_id)], "control")

    def _ring_host(self, host_id: uuid.UUID, call_id: uuid.UUID) -> None:
        self._publish("cenote.node.ring", [str(call_id)], f"host.{host_id}")

    def _publish(self, task: str, arguments: list[str], queue: str) -> None:
        if time.monotonic() < self._broker_down_until:
            return
        try:
            self._app.send_task(task, args=arguments, queue=queue, expires=60, retry=False)
        except (BrokerError, OSError) as error:
            # A second of silence instead of one time-out per message: a paused broker must not pile work up here.
            self._broker_down_until = time.monotonic() + 1.0
            log.warning("the broker does not answer, rows will wait: %s", error)
