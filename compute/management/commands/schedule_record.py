"""Switch a pool's flight recorder on or off."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from compute.selectors.lookup import find_pool
from compute.services.flight import set_recording
from tenants.errors import DomainError
from tenants.services.access import system_actor


class Command(BaseCommand):
    help = "Keep, or no longer keep, the hosts as each decision of a pool saw them."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("pool")
        parser.add_argument("switch", choices=["on", "off"])

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            pool = find_pool(options["pool"])
            set_recording(actor=system_actor("schedule_record"), pool=pool, on=options["switch"] == "on")
        except DomainError as error:
            raise CommandError(error.detail) from None
        self.stdout.write(f"The recorder of the pool {pool.name} is {options['switch']}.")
