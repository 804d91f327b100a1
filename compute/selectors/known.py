"""The rows that every create needs, found in one query and read only when they have changed.

A row is kept with the id of the transaction that wrote it (`xmin`): while the database shows the same, what is kept is
the row. So a change of the catalogue counts with the next create, and an unchanged one costs no reading.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from django.db import models

from compute.models import Flavor, Image, Network, Pool
from tenants import prepared

# Two of a kind are enough to know that a reference is not one. A pool is the only one where none is named.
_FIND: Final = """
WITH pool AS (
    SELECT id, xmin FROM compute_pool
    WHERE (%(pool)s::text IS NULL OR name = %(pool)s::text OR id = %(pool_id)s::uuid) LIMIT 2
), network AS (
    SELECT id, xmin FROM compute_network
    WHERE tenant_id IS NULL AND pool_id = (SELECT id FROM pool LIMIT 1) ORDER BY created_at LIMIT 1
)
(SELECT 0, id, xmin::text::bigint FROM compute_flavor
 WHERE active AND (name = %(flavor)s::text OR id = %(flavor_id)s::uuid) LIMIT 2)
UNION ALL
(SELECT 1, id, xmin::text::bigint FROM compute_image
 WHERE active AND (name = %(image)s::text OR id = %(image_id)s::uuid) LIMIT 2)
UNION ALL SELECT 2, id, xmin::text::bigint FROM pool
UNION ALL SELECT 3, id, xmin::text::bigint FROM network
"""
_KEPT_AT_MOST: Final = 10_000

_kept: dict[uuid.UUID, tuple[int, models.Model]] = {}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a create names, as rows. Shared between requests: to be read only."""

    flavor: Flavor
    image: Image
    pool: Pool
    network: Network


def ask_catalogue(*, flavor: str, image: str, pool: str | None) -> Callable[[], Catalogue | None]:
    """Ask for the rows with these ids or names, see `prepared.ask`; None unless each is found exactly once.

    `lookup` says what is wrong then.
    """
    found = prepared.ask(
        _FIND,
        {
            "flavor": flavor,
            "flavor_id": _as_id(flavor),
            "image": image,
            "image_id": _as_id(image),
            "pool": pool,
            "pool_id": _as_id(pool),
        },
    )
    return lambda: _catalogue(found())


def _catalogue(found: prepared.Rows) -> Catalogue | None:
    if sorted(row[0] for row in found) != [0, 1, 2, 3]:
        return None
    rows = {}
    for place, row_id, written_in in found:
        row = _known((Flavor, Image, Pool, Network)[place], row_id, written_in)
        if row is None:
            return None
        rows[place] = row
    return Catalogue(*(rows[place] for place in range(4)))  # type: ignore[arg-type]  # each place has its own model


def _known(model: type[models.Model], row_id: uuid.UUID, written_in: int) -> models.Model | None:
    kept = _kept.get(row_id)
    if kept is not None and kept[0] == written_in:
        return kept[1]
    row = model._default_manager.filter(pk=row_id).first()
    if row is not None:
        if len(_kept) >= _KEPT_AT_MOST:
            _kept.clear()
        # Read after `written_in`: at worst it is newer, and read once more the next time.
        _kept[row_id] = written_in, row
    return row


def _as_id(reference: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(reference) if reference else None
    except ValueError:
        return None
