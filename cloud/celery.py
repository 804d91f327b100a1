"""The control plane's Celery app. Celery is a doorbell: a message carries an id, rows carry the truth.

Early acknowledgement, no results, no eta, no retries: the sweeps in `compute.tasks` close every gap, so losing all of
Redis is a non-event.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloud.settings")

from django.conf import settings

app = Celery("cenote")
app.conf.update(
    broker_url=settings.BROKER_URL,
    task_ignore_result=True,
    task_default_queue="control",
    task_serializer="json",
    accept_content=["json"],
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    task_publish_retry=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
    imports=["compute.tasks.operations", "compute.tasks.fencing", "compute.tasks.plans", "compute.tasks.periodic"],
    beat_schedule={
        "sweep": {"task": "compute.sweep", "schedule": settings.SWEEP_SECONDS, "options": {"expires": 10}},
        "reconcile": {"task": "compute.reconcile", "schedule": 10, "options": {"expires": 10}},
        "expire": {"task": "compute.expire", "schedule": 3600, "options": {"expires": 600}},
        "books": {"task": "compute.check_books", "schedule": settings.BOOKS_SECONDS, "options": {"expires": 60}},
    },
)
