"""`Idempotency-Key` on POST: the same key again gets the first answer again, and the work is done once.

1. The key's row is committed first, alone: of two requests at once, one runs, the other is told 409 (unique constraint).
2. The work carries the row's id; services write it on every operation they submit, in their own transaction.
3. The answer is stored. A process that dies between 2 and 3 leaves a row whose lock runs out: the next request with the
   key finds the operations by the id and builds the answer from them; if there are none, the work never committed and runs.

Answers 401, 409, 429 are not kept: they may be different the next time. After a 5xx the row stays, its lock given up, since
nobody knows whether the work was committed: the next request looks, as in 3.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from rest_framework.request import Request
from rest_framework.response import Response

from cloud.api.errors import KeyInFlight, KeyMalformed, KeyReused
from cloud.api.exceptions import problem_handler
from cloud.api.models import IdempotencyKey
from compute.models import Operation
from tenants.services.access import Actor

KEPT_HOURS: Final = 24
LOCK_SECONDS: Final = 30  # longer than a request may take: a statement is cut at 10 s, a lock wait at 8 s
SWEPT_AT_ONCE: Final = 20
_SHAPE: Final = re.compile(r"[\x21-\x7e]{1,255}")
_NOT_KEPT: Final = frozenset({401, 409, 429})
_HEADERS: Final = ("Location", "ETag", "WWW-Authenticate")

Run = Callable[[UUID | None], Response]
Rebuild = Callable[[list[Operation], Actor], Response | None]


def once(request: Request, actor: Actor, run: Run, *, rebuild: Rebuild, secret: bool) -> Response:
    """Run with the key's protection, or answer as the first time. Without the header: just run."""
    text = request.headers.get("Idempotency-Key")
    if text is None:
        return run(None)
    if not _SHAPE.fullmatch(text):
        raise KeyMalformed
    row, again = _take(actor=f"{actor.user_id}:{actor.tenant_id or 'cloud'}", key=text, body_hash=_hash(request))
    if row.status is not None:
        return _replay(row)
    response = None
    if again:
        operations = list(Operation.objects.filter(request_key=row.id).order_by("created_at", "id"))
        response = rebuild(operations, actor) if operations else None
    if response is None:
        try:
            response = run(row.id)
        except Exception as error:
            # Whatever it is, it becomes a problem here, so that the row learns how the request ended.
            response = problem_handler(error, {"request": request})
    _store(row, response, secret=secret)
    return response


def _take(*, actor: str, key: str, body_hash: str) -> tuple[IdempotencyKey, bool]:
    """The key's row, and whether somebody else's lock on it had run out. Raises KeyInFlight, KeyReused."""
    until = Now() + timedelta(seconds=LOCK_SECONDS)
    _sweep(actor=actor, key=key)
    try:
        with transaction.atomic():
            return IdempotencyKey.objects.create(actor=actor, key=key, body_hash=body_hash, locked_until=until), False
    except IntegrityError:
        row = IdempotencyKey.objects.filter(actor=actor, key=key).first()
    if row is None:  # given up between the two statements
        raise KeyInFlight
    if row.body_hash != body_hash:
        raise KeyReused
    if row.status is not None:
        return row, False
    mine = IdempotencyKey.objects.filter(id=row.id, status=None, locked_until__lt=Now()).update(locked_until=until)
    if not mine:
        raise KeyInFlight
    return row, True


def _sweep(*, actor: str, key: str) -> None:
    """Forget this key's answer of yesterday, and a few others: so the table stays as large as a day's requests."""
    old = IdempotencyKey.objects.filter(created_at__lt=Now() - timedelta(hours=KEPT_HOURS))
    old.filter(actor=actor, key=key).delete()
    with transaction.atomic():
        ids = list(
            old.order_by("created_at").select_for_update(skip_locked=True).values_list("id", flat=True)[:SWEPT_AT_ONCE]
        )
        if ids:
            IdempotencyKey.objects.filter(id__in=ids).delete()


def _store(row: IdempotencyKey, response: Response, *, secret: bool) -> None:
    rows = IdempotencyKey.objects.filter(id=row.id, status=None)
    if response.status_code >= 500:
        rows.update(locked_until=Now())
    elif response.status_code in _NOT_KEPT:
        rows.delete()
    else:
        body = _seal(response.data) if secret and response.status_code < 300 else response.data
        headers = {name: response[name] for name in _HEADERS if response.has_header(name)}
        rows.update(status=response.status_code, headers=headers, body=body)


def _replay(row: IdempotencyKey) -> Response:
    body = _open(row.body) if isinstance(row.body, dict) and set(row.body) == {"sealed"} else row.body
    response = Response(body, status=row.status, headers={**row.headers, "Idempotency-Replayed": "true"})
    if row.status is not None and row.status >= 400:
        response.content_type = "application/problem+json"
    return response


def _hash(request: Request) -> str:
    text = json.dumps([request.method, request.get_full_path(), request.data], sort_keys=True, cls=DjangoJSONEncoder)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _seal(body: Any) -> dict[str, str]:
    """A token's text stands in the database in clear for no minute, not even in the answer that is kept."""
    return {"sealed": _fernet().encrypt(json.dumps(body, cls=DjangoJSONEncoder).encode()).decode()}


def _open(body: dict[str, str]) -> Any:
    return json.loads(_fernet().decrypt(body["sealed"].encode()))


def _fernet() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"idempotency:" + settings.SECRET_KEY.encode()).digest()))
