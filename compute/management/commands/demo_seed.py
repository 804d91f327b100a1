"""Seed what a first evening with the product needs: a pool, flavors, a demo tenant with users, tokens for scripts."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import transaction

from compute.models import Flavor, Pool
from compute.services.catalog import create_flavor, create_pool
from tenants.errors import TokenInvalid
from tenants.models import Tenant, User
from tenants.services.access import system_actor
from tenants.services.members import add_member
from tenants.services.tenants import create_tenant
from tenants.services.tokens import authenticate_token, create_token
from tenants.services.users import create_user

FLAVORS = (
    ("nano", 1, 128, 1),
    ("micro", 1, 256, 2),
    ("small", 1, 512, 4),
    ("medium", 2, 1024, 8),
    ("large", 4, 2048, 16),
)
LIMITS = {"instances": 20, "vcpus": 24, "memory_mib": 8192, "disk_gib": 100, "keypairs": 50, "tokens": 50}
ACTOR = system_actor("demo_seed")


class Command(BaseCommand):
    help = "Make the demo pool, flavors, tenant, users and tokens; print them as JSON. Run again: what is there stays."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument(
            "--secrets", type=Path, default=None, help="file that keeps the demo's passwords and tokens (0600)"
        )
        parser.add_argument("--cidr", default="10.80.0.0/20")

    def handle(self, *args: Any, **options: Any) -> None:
        file = options["secrets"] or settings.STATE_DIR / "demo.json"
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        if not Pool.objects.filter(name="lab").exists():
            create_pool(
                actor=ACTOR, name="lab", cidr=options["cidr"], vcpu_ratio=4.0, description="The hosts of the lab"
            )
        for name, vcpus, memory_mib, disk_gib in FLAVORS:
            if not Flavor.objects.filter(name=name).exists():
                create_flavor(actor=ACTOR, name=name, vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib)
        operator = _user("operator", known, is_operator=True)
        owner = _user("demo", known)
        viewer = _user("viewer", known)
        tenant = Tenant.objects.filter(name="demo", parent=None).exclude(state="deleted").first()
        if tenant is None:
            tenant = create_tenant(actor=ACTOR, name="demo", owner=owner, limits=LIMITS)
            add_member(actor=ACTOR, tenant=tenant, user=viewer, role="viewer")
        _token("token", known, user=owner, tenant=tenant)
        _token("operator_token", known, user=operator, tenant=None)
        known["tenant"] = tenant.name
        _write(file, known)
        self.stdout.write(json.dumps(known))


def _user(name: str, known: dict[str, str], *, is_operator: bool = False) -> User:
    key = f"{name}_password"
    user = User.objects.filter(username=name).first()
    if user is not None and key in known:
        return user
    # A lost secrets file mends itself: the demo's users get new passwords.
    known[key] = "-".join(secrets.token_hex(3) for _ in range(3))
    if user is None:
        return create_user(actor=ACTOR, username=name, password=known[key], is_operator=is_operator)
    with transaction.atomic():
        user.set_password(known[key])
        user.save(update_fields=["password"])
    return user


def _token(key: str, known: dict[str, str], *, user: User, tenant: Tenant | None) -> None:
    if key in known:
        try:
            authenticate_token(text=known[key])
            return
        except TokenInvalid:
            known.pop(key)
    _, known[key] = create_token(actor=ACTOR, user=user, tenant=tenant, name="demo")


def _write(file: Path, known: dict[str, str]) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.touch(mode=0o600)
    partial.chmod(0o600)
    partial.write_text(json.dumps(known, indent=2))
    partial.rename(file)
