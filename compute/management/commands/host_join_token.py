"""Make a one-time token by which a machine becomes a host."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from compute.selectors.lookup import find_pool
from compute.services.hosts import create_join_token
from tenants.errors import DomainError
from tenants.services.access import system_actor


class Command(BaseCommand):
    help = "Print a join token, good for one host and 24 hours."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--pool", required=True)
        parser.add_argument("--name", default="", help="bind it to a host of this name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            _, secret = create_join_token(
                actor=system_actor("host_join_token"), pool=find_pool(options["pool"]), name=options["name"]
            )
        except DomainError as error:
            raise CommandError(error.detail) from None
        self.stdout.write(secret)
