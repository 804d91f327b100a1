"""Groups: what a tenant wants kept apart or together."""

from __future__ import annotations

import uuid

from django.db import IntegrityError, transaction

from compute.errors import InUse
from compute.models import Group, Instance
from compute.models.group import RULES
from compute.services.checks import check_name
from tenants.errors import InvalidInput, NameTaken, NotFound
from tenants.models import Tenant
from tenants.services import audit
from tenants.services.access import Actor, authorize

MOST_PER_TENANT = 200


def create_group(*, actor: Actor, tenant: Tenant, name: str, rule: str, max_per_domain: int | None = None) -> Group:
    """Make an empty group. Raises InvalidInput, NameTaken, PermissionDenied; InUse beyond MOST_PER_TENANT of them."""
    authorize(actor, "group.create", tenant)
    check_name(name)
    if rule not in RULES:
        raise InvalidInput.field("/rule", "invalid_rule", f"A rule is one of {', '.join(RULES)}.")
    if max_per_domain is not None and not 1 <= max_per_domain <= 1000:
        raise InvalidInput.field("/max_per_domain", "invalid_count", "At most so many is a number from 1 to 1000.")
    with transaction.atomic(durable=True):
        # Two at once would both count one below.
        Tenant.objects.select_for_update(of=("self",), no_key=True).get(id=tenant.id)
        if Group.unscoped.filter(tenant=tenant).count() >= MOST_PER_TENANT:
            raise InUse(f"The tenant has {MOST_PER_TENANT} groups, the most there can be: delete one first.")
        try:
            with transaction.atomic():
                group: Group = Group.unscoped.create(tenant=tenant, name=name, rule=rule, max_per_domain=max_per_domain)
        except IntegrityError:
            raise NameTaken(f"There is a group called {name} already.") from None
        audit.record(
            actor=actor,
            action="group.create",
            tenant=tenant,
            target=group,
            after={"rule": rule, "max_per_domain": max_per_domain},
        )
        return group


def delete_group(*, actor: Actor, group_id: uuid.UUID) -> None:
    """Forget a group without members. Raises NotFound, PermissionDenied, InUse."""
    with transaction.atomic(durable=True):
        group = Group.unscoped.select_for_update(of=("self",)).filter(id=group_id).first()
        if group is None:
            raise NotFound
        authorize(actor, "group.delete", group.tenant_id)
        members = Instance.unscoped.filter(group=group).exclude(state__in=["failed", "deleted"]).count()
        if members:
            raise InUse(f"{group.name} still has {members} instances: delete them first.", instances=members)
        audit.record(actor=actor, action="group.delete", tenant=group.tenant_id, target=group)
        group.delete()
