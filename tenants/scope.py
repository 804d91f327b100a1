"""The second wall between tenants: a tenant's rows can only be read inside a scope that names the tenants.

    with tenant_scope({tenant.id}):
        Instance.objects.all()      # only this tenant's
    Instance.objects.all()          # raises ScopeError
    Instance.unscoped.all()         # every tenant's: engine, reconcilers, placement sums; easy to find by name

The first wall is `access.authorize`. A forgotten filter then shows nothing of others' instead of everything.
A scope inside a scope can only narrow it. Scopes live in a context variable: threads start without one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar, Final, Self, TypeVar
from uuid import UUID

from django.db import models


class ScopeError(RuntimeError):
    """Tenant-owned rows were touched outside a scope, or a scope was to be widened: a defect in the code."""


class _All(enum.Enum):
    ALL = "all tenants"


ALL: Final = _All.ALL
Scope = frozenset[UUID] | _All

_current: ContextVar[Scope | None] = ContextVar("tenant_scope", default=None)
_M = TypeVar("_M", bound=models.Model)


def current_scope() -> Scope:
    """The tenants in scope, or ALL. Raises ScopeError outside a scope."""
    scope = _current.get()
    if scope is None:
        raise ScopeError("tenant-owned rows need tenant_scope(...), or the model's `unscoped` manager")
    return scope


@contextmanager
def tenant_scope(tenant_ids: Iterable[UUID] | _All) -> Iterator[None]:
    """Open a scope for the block. Inside another scope it must be a part of that one (ScopeError otherwise)."""
    wanted: Scope = tenant_ids if isinstance(tenant_ids, _All) else frozenset(tenant_ids)
    outer = _current.get()
    if isinstance(outer, frozenset) and (isinstance(wanted, _All) or not wanted <= outer):
        raise ScopeError("a scope inside a scope can only narrow it")
    reset = _current.set(wanted)
    try:
        yield
    finally:
        _current.reset(reset)


def narrow(queryset: models.QuerySet[_M], field: str = "tenant_id") -> models.QuerySet[_M]:
    """The rows of a queryset that are in the current scope; `field` is the lookup that leads to the tenant's id."""
    scope = current_scope()
    return queryset if isinstance(scope, _All) else queryset.filter(**{f"{field}__in": scope})


class ScopedManager(models.Manager[_M]):
    """`objects` of a tenant-owned model. Give `field` where the tenant is reached through another row."""

    def __init__(self, field: str = "tenant_id") -> None:
        super().__init__()
        self._scope_field = field

    def get_queryset(self) -> models.QuerySet[_M]:
        return narrow(super().get_queryset(), self._scope_field)


class TenantOwned(models.Model):
    """Abstract base of what belongs to one tenant. `objects` needs a scope; `unscoped` is the explicit way around."""

    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, related_name="+", db_index=True)

    objects: ClassVar[ScopedManager[Self]] = ScopedManager()
    unscoped: ClassVar[models.Manager[Self]] = models.Manager()

    class Meta:
        abstract = True
        # Foreign keys are followed, and rows saved, by the base manager: the row in hand has passed the wall already.
        base_manager_name = "unscoped"
