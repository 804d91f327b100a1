"""Which tenant a request means: the token's own unless it names another one that it sees."""

from __future__ import annotations

from uuid import UUID

from cloud.api.routes import Call
from tenants import selectors
from tenants.errors import AmbiguousName, InvalidInput, NotFound
from tenants.models import Tenant
from tenants.services.access import authorize, authorize_past


def acting_tenant(call: Call, permission: str, *, pointer: str = "/tenant") -> Tenant:
    """The tenant named by body or query (`tenant`: id, name or path of names), else the token's; permission checked.

    Raises InvalidInput where none is named and the token belongs to none, or where the named one is not there (a
    foreign one looks the same); PermissionDenied, NotFound.
    """
    reference = (call.body if pointer.startswith("/") else call.query).get("tenant")
    if reference is not None:
        tenant = _named(reference, pointer)
    elif call.actor.tenant_id is not None:
        tenant = selectors.get_tenant(call.actor.tenant_id)
    else:
        raise InvalidInput.field(pointer, "required", "This token belongs to no tenant: name one.")
    authorize(call.actor, permission, tenant)
    return tenant


def reported_tenant(call: Call, permission: str) -> Tenant:
    """`acting_tenant` of `?tenant=` for reports of the past: a closed tenant, or a deleted one by its id, can be asked for."""
    reference = call.query.get("tenant")
    if reference is None:
        return acting_tenant(call, permission, pointer="?tenant")
    tenant = selectors.find_deleted_tenant(reference) or _named(reference, "?tenant")
    try:
        authorize_past(call.actor, permission, tenant)
    except NotFound:
        raise _not_there(reference, "?tenant")
    return tenant


def listed_tenant(call: Call, permission: str) -> UUID | None:
    """The tenant that a list is narrowed to by `?tenant=`, or None for all that the caller sees; permission checked."""
    reference = call.query.get("tenant")
    if reference is not None:
        tenant = _named(reference, "?tenant")
        authorize(call.actor, permission, tenant)
        return tenant.id
    if call.actor.tenant_id is not None:
        authorize(call.actor, permission, call.actor.tenant_id)
    return None


def _named(reference: str, pointer: str) -> Tenant:
    try:
        return selectors.get_tenant(reference)
    except AmbiguousName as error:
        raise InvalidInput.field(pointer, "ambiguous_name", error.detail)
    except NotFound:
        raise _not_there(reference, pointer)


def _not_there(reference: str, pointer: str) -> InvalidInput:
    return InvalidInput.field(pointer, "not_found", f"There is no tenant {reference!r} here.")
