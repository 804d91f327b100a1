"""Print the tenant tree: `manage.py tenant_list [--deleted]`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from tenants.models import Quota, Tenant
from tenants.selectors import tenant_paths


class Command(BaseCommand):
    help = "Print every tenant by its path of names, with its state, its instances (used/limit) and its id."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--deleted", action="store_true", help="deleted tenants as well")

    def handle(self, *args: Any, **options: Any) -> None:
        found = list(Tenant.objects.all() if options["deleted"] else Tenant.objects.exclude(state=Tenant.State.DELETED))
        names = tenant_paths(found)
        instances = {row.tenant_id: row for row in Quota.unscoped.filter(resource="instances")}
        self.stdout.write(f"{'TENANT':40} {'STATE':9} {'INSTANCES':>11}  ID")
        for tenant in sorted(found, key=lambda tenant: names[tenant.id].lower()):
            row = instances[tenant.id]
            use = f"{row.used}/{'-' if row.limit is None else row.limit}"
            self.stdout.write(f"{names[tenant.id]:40} {tenant.state:9} {use:>11}  {tenant.id}")
