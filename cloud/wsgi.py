"""WSGI entry point of the web process."""

import os

from django.core.wsgi import get_wsgi_application

from cloud import collector

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloud.settings")
application = get_wsgi_application()
collector.spare()
