"""Cursor pages: `?limit=&cursor=`, `{items, next_cursor}`. Keyset on the ordering, so a page costs the same at any depth
and rows that come or go meanwhile neither repeat nor hide others."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.errors import InvalidInput

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


def page(
    request: Request,
    rows: QuerySet[Any],
    render: Callable[[Any], dict[str, Any]],
    *,
    newest_first: bool = True,
    time: str = "created_at",
) -> Response:
    """Render one page of `rows`, ordered by (time, id). Raises InvalidInput for a bad limit or cursor."""
    limit = _limit(request)
    after = request.query_params.get("cursor")
    if after is not None:
        moment, pk = _decode(after)
        less = "lt" if newest_first else "gt"
        # Said twice: by the first an index scan begins at the cursor, which it does not see in the alternatives.
        rows = rows.filter(**{f"{time}__{less}e": moment})
        rows = rows.filter(Q(**{f"{time}__{less}": moment}) | Q(**{time: moment, f"id__{less}": pk}))
    sign = "-" if newest_first else ""
    found = list(rows.order_by(f"{sign}{time}", f"{sign}id")[: limit + 1])
    items = found[:limit]
    next_cursor = _encode(getattr(items[-1], time), items[-1].pk) if len(found) > limit else None
    response = Response({"items": [render(row) for row in items], "next_cursor": next_cursor})
    if next_cursor:
        query = request.query_params.copy()
        query["cursor"] = next_cursor
        response["Link"] = f'<{request.path}?{query.urlencode()}>; rel="next"'
    return response


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= MAX_LIMIT:
        raise InvalidInput.field("?limit", "out_of_range", f"limit is a whole number from 1 to {MAX_LIMIT}.")
    return int(text)


def _encode(moment: datetime, pk: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(json.dumps([moment.isoformat(), str(pk)]).encode()).decode().rstrip("=")


def _decode(text: str) -> tuple[datetime, uuid.UUID]:
    try:
        moment, pk = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        parsed = datetime.fromisoformat(moment)
        if parsed.tzinfo is None:
            raise ValueError("no zone")
        return parsed, uuid.UUID(pk)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InvalidInput.field(
            "?cursor", "invalid_cursor", "Use the next_cursor of the page before, unchanged."
        ) from None
