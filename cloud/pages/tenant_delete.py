"""The deletion of a tenant with all it holds, as a page: first what goes, then its name typed by whoever agrees."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest

from cloud.pages.fields import Form
from compute.models import Operation
from compute.selectors.tenant_contents import Contents
from compute.services.tenants_delete import delete_tenant_with_contents, plan_tenant_delete
from tenants.errors import DomainError, InvalidInput
from tenants.models import Tenant
from tenants.services.access import Actor


@dataclass(frozen=True, slots=True)
class Asked:
    """What to show; `operation` is what to go to instead, once it was agreed to."""

    form: Form
    contents: Contents
    operation: Operation | None = None


def ask_before_deletion(request: HttpRequest, *, actor: Actor, tenant: Tenant) -> Asked:
    """Show what goes; delete what was shown, by its fingerprint, when the name is typed. Raises PermissionDenied, NotFound."""
    form = Form(values={"name": request.POST.get("name", "").strip()})
    operation = None
    if request.method == "POST":
        try:
            if form.values["name"] != tenant.name:
                raise InvalidInput.field("/name", "differs", f"Type {tenant.name}, as it is written here.")
            operation = delete_tenant_with_contents(
                actor=actor, tenant=tenant, fingerprint=request.POST.get("fingerprint", "")
            )
        except DomainError as error:
            form.refuse(error)
    return Asked(form=form, contents=plan_tenant_delete(actor=actor, tenant=tenant), operation=operation)
