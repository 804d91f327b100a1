"""Make a user: `manage.py user_create NAME [--operator] [--email E] [--tenant T --role R]`."""

from __future__ import annotations

import getpass
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from tenants import roles, selectors
from tenants.errors import DomainError
from tenants.scope import ALL, tenant_scope
from tenants.services import members, users
from tenants.services.access import system_actor


class Command(BaseCommand):
    help = "Make a user. The password is asked for, or read as one line from standard input where that is no terminal."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--email", default="")
        parser.add_argument("--operator", action="store_true", help="one of the cloud's operators")
        parser.add_argument("--no-password", action="store_true", help="a service account that lives by its tokens")
        parser.add_argument("--tenant", help="id, name or path of a tenant to belong to")
        parser.add_argument("--role", choices=list(reversed(roles.ROLES)), default=roles.VIEWER)

    def handle(self, *args: Any, **options: Any) -> None:
        password = None if options["no_password"] else _read_password()
        actor = system_actor("user_create")
        try:
            with tenant_scope(ALL), transaction.atomic():
                user = users.create_user(
                    actor=actor,
                    username=options["username"],
                    password=password,
                    email=options["email"],
                    is_operator=options["operator"],
                )
                if options["tenant"]:
                    tenant = selectors.get_tenant(options["tenant"])
                    members.add_member(actor=actor, tenant=tenant, user=user, role=options["role"])
        except DomainError as error:
            raise CommandError(f"{error.code}: {error.detail}")
        self.stdout.write(f"{user.id}  {user.username}")


def _read_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise CommandError("The two passwords differ.")
    return password
