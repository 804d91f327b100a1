"""Keyset pages of a list ordered by (created_at, id), newest first, or by a unique name: the same cost at any depth, no
row twice."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import HttpRequest

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `next_query` and `first_query` are query strings ("?...") or "" where there is no such page."""

    items: list[Any]
    next_query: str
    first_query: str


def page(request: HttpRequest, rows: QuerySet[Any], *, size: int = PAGE_SIZE, time: str = "created_at") -> Page:
    """Return the page that `?after=` names; a cursor that makes no sense shows the first page."""
    after = _decode(request.GET.get("after", ""))
    if after is not None:
        moment, pk = after
        # Said twice: by the first an index scan begins at the cursor, which it does not see in the alternatives.
        rows = rows.filter(**{f"{time}__lte": moment})
        rows = rows.filter(Q(**{f"{time}__lt": moment}) | Q(**{time: moment, "id__lt": pk}))
    found = list(rows.order_by(f"-{time}", "-id")[: size + 1])
    items = found[:size]
    more = len(found) > size
    return Page(
        items=items,
        next_query=_query(request, f"{getattr(items[-1], time).isoformat()}~{items[-1].pk}") if more else "",
        first_query=_query(request, "") if after is not None else "",
    )


def page_by_name(request: HttpRequest, rows: QuerySet[Any], *, size: int = PAGE_SIZE) -> Page:
    """Return the page that begins behind the name in `?after=`. `rows` have a unique `name`."""
    after = request.GET.get("after", "")
    found = list((rows.filter(name__gt=after) if after else rows).order_by("name")[: size + 1])
    items = found[:size]
    return Page(
        items=items,
        next_query=_query(request, items[-1].name) if len(found) > size else "",
        first_query=_query(request, "") if after else "",
    )


def _query(request: HttpRequest, after: str) -> str:
    kept = {key: value for key, value in request.GET.items() if key != "after" and value}
    if after:
        kept["after"] = after
    return "?" + urlencode(kept)


def _decode(text: str) -> tuple[datetime, uuid.UUID] | None:
    moment, _, pk = text.partition("~")
    try:
        when = datetime.fromisoformat(moment)
        return (when, uuid.UUID(pk)) if when.tzinfo else None
    except ValueError:
        return None
