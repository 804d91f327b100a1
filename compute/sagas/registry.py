"""The only place that names all kinds of operation. A kind that is missing here cannot be submitted by any service."""

from __future__ import annotations

from compute.sagas import (
    host_prove,
    instance_create,
    instance_delete,
    instance_evacuate,
    instance_migrate,
    instance_move,
    instance_reboot,
    instance_resize,
    instance_start,
    instance_stop,
    tenant_delete,
)
from compute.sagas.step import Saga

SAGAS: dict[str, Saga] = {
    saga.kind: saga
    for saga in (
        host_prove.SAGA,
        instance_create.SAGA,
        instance_delete.SAGA,
        instance_migrate.SAGA,
        instance_move.SAGA,
        instance_evacuate.SAGA,
        instance_reboot.SAGA,
        instance_resize.SAGA,
        instance_start.SAGA,
        instance_stop.SAGA,
        tenant_delete.SAGA,
    )
}


def saga_of(kind: str) -> Saga:
    """Return the saga of an operation's kind. Raises KeyError for a kind that this release does not know."""
    return SAGAS[kind]


KINDS: tuple[str, ...] = tuple(sorted(SAGAS))
