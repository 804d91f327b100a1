"""Run the relay between PostgreSQL's notifications and the broker."""

from __future__ import annotations

import signal
from typing import Any

from celery import Celery
from django.conf import settings
from django.core.management.base import BaseCommand

from compute.tasks.relay import Relay


class Command(BaseCommand):
    help = "Listen for work in PostgreSQL and ring the doorbells. Ends on SIGTERM."

    def handle(self, *args: Any, **options: Any) -> None:
        # Its own app: it publishes and never consumes. A lost message costs a sweep, so no publish is tried twice.
        app = Celery("cenote-relay", broker=settings.BROKER_URL)
        app.conf.update(
            task_serializer="json",
            task_ignore_result=True,
            task_publish_retry=False,
            broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
        )
        relay = Relay(app, sweep_seconds=settings.SWEEP_SECONDS)
        signal.signal(signal.SIGTERM, lambda *_: relay.stop())
        signal.signal(signal.SIGINT, lambda *_: relay.stop())
        relay.run()
