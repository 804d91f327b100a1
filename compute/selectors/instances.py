"""Reads about instances, and the status a person sees."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.db.models.functions import Greatest

from compute import states
from compute.models import Domain, Flavor, Host, Instance, Operation, Port
from compute.selectors import lookup
from tenants.errors import NotFound
from tenants.scope import ALL, Scope
from tenants.services.access import Actor, authorize, visible_tenant_ids

_BUSY = {
    "instance_start": "starting",
    "instance_stop": "stopping",
    "instance_reboot": "rebooting",
    "instance_resize": "resizing",
    "instance_migrate": "migrating",
    "instance_move": "moving",
    "instance_evacuate": "starting",
    "instance_delete": "deleting",
}
_REST = {"running": "running", "paused": "paused", "stopped": "stopped", "crashed": "crashed", "suspended": "suspended"}


def instance_rows(*, visible: Scope) -> QuerySet[Instance]:
    """Return the visible tenants' live instances with all that a list shows already joined: a constant number of queries.

    Annotated: `power`, `power_observed_at` (the host's report), `open_operation_id`, `open_operation_kind`.
    """
    here = Domain.objects.filter(instance=OuterRef("pk"), host=OuterRef("host"))
    open_now = Operation.objects.filter(
        target_type="instance", target_id=OuterRef("pk"), state__in=states.OPERATION_OPEN
    ).order_by("created_at")
    rows: QuerySet[Instance] = (
        Instance.unscoped.exclude(state="deleted")
        .select_related("flavor", "image", "pool", "host", "tenant", "group")
        .prefetch_related(Prefetch("ports", queryset=Port.unscoped.select_related("network")))
        .annotate(
            power=Subquery(here.values("power")[:1]),
            power_observed_at=Subquery(here.values(at=Greatest("observed_at", "host__observed_at"))[:1]),
            open_operation_id=Subquery(open_now.values("id")[:1]),
            open_operation_kind=Subquery(open_now.values("kind")[:1]),
        )
        .defer("user_data")
    )
    return rows if visible is ALL else rows.filter(tenant_id__in=visible)


def row_of_new(*, instance: Instance, operation: Operation, port: Port) -> Instance:
    """Return an instance that was made just now, and its open operation, as `instance_rows` would; without a query."""
    row: Any = instance
    row.power = row.power_observed_at = None
    row.open_operation_id, row.open_operation_kind = operation.id, operation.kind
    row._prefetched_objects_cache = {"ports": [port]}
    return instance


def list_instances(
    *,
    actor: Actor,
    tenant_id: uuid.UUID | None = None,
    state: str | None = None,
    kind: str | None = None,
    name: str | None = None,
    host: Host | None = None,
    flavor: Flavor | None = None,
    search: str | None = None,
) -> QuerySet[Instance]:
    """Return what the actor may read, newest first, narrowed by fixed filters only.

    `search`: part of the name; with a dot or a colon in it, the beginning of an address.
    """
    rows = instance_rows(visible=visible_tenant_ids(actor, "instance.read"))
    if tenant_id is not None:
        rows = rows.filter(tenant_id=tenant_id)
    if state is not None:
        rows = rows.filter(state=state)
    if kind is not None:
        rows = rows.filter(kind=kind)
    if name is not None:
        rows = rows.filter(name=name)
    if host is not None:
        rows = rows.filter(host=host)
    if flavor is not None:
        rows = rows.filter(flavor=flavor)
    if search:
        rows = rows.filter(_found_by(search))
    return rows.order_by("-created_at", "-id")


def _found_by(search: str) -> Q | Exists:
    """Names hold no dot and no colon, addresses do: so one index answers each, and none has to ask both."""
    if "." in search or ":" in search:
        return Exists(Port.unscoped.filter(instance=OuterRef("pk"), address__startswith=search.lower()))
    return Q(name__contains=search.lower())


def get_instance(*, actor: Actor, reference: str) -> Instance:
    """Return one instance by id or name. Raises NotFound, AmbiguousName, PermissionDenied."""
    from_lookup = _find(actor, reference)
    authorize(actor, "instance.read", from_lookup.tenant_id)
    return from_lookup


def _find(actor: Actor, reference: str) -> Instance:
    visible = visible_tenant_ids(actor)
    row = lookup.find_instance(reference, visible=visible)
    found = instance_rows(visible=visible).filter(id=row.id).first()
    if found is None:
        raise NotFound
    return found


def status_of(instance: Instance) -> str:
    """Return what a tenant sees. Computed from lifecycle, the open operation, the host's report and the host's health.

    Needs a row from `instance_rows`.
    """
    if instance.state in ("building", "failed", "deleting"):
        return str(instance.state)
    row: Any = instance
    busy = _BUSY.get(row.open_operation_kind or "")
    if busy:
        return busy
    if instance.state == "error":
        return "error"
    if instance.host is not None and instance.host.observed_state in ("down", "fenced", "unknown"):
        # The last report may be hours old: a guest on a silent host is neither running nor stopped for sure.
        return "unknown"
    return _REST.get(row.power or "", "stopped" if row.power == "absent" else "unknown")
