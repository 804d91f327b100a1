"""SSH keys of the tenant."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from cloud.pages.fields import Form
from cloud.portal.desk import Desk, at_desk
from compute.selectors.catalog import list_keypairs
from compute.services.keypairs import create_keypair, delete_keypair
from tenants.errors import DomainError


@require_http_methods(["GET", "HEAD", "POST"])
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    """The list, and the form that adds one."""
    form = Form(values={"name": "", "public_key": ""})
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "") for name in form.values}
        try:
            create_keypair(
                actor=desk.actor,
                tenant=desk.tenant,
                name=form.values["name"].strip(),
                public_key=form.values["public_key"],
            )
        except DomainError as error:
            form.refuse(error, fields={"name_taken": "name"})
        else:
            messages.success(request, f"The key {form.values['name'].strip()} is there for new instances.")
            return redirect("keys")
    rows = list(list_keypairs(actor=desk.actor, tenant_id=desk.tenant.id)[:500])
    status = 400 if form.errors or form.refusal else 200
    return render(request, "portal/keys.html", {"desk": desk, "form": form, "rows": rows}, status=status)


@require_POST
@at_desk
def delete(request: HttpRequest, desk: Desk, keypair_id: uuid.UUID) -> HttpResponse:
    delete_keypair(actor=desk.actor, keypair_id=keypair_id)
    messages.success(request, "The key is gone. Instances that were made with it keep it.")
    return redirect("keys")
