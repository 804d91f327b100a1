"""`Idempotency-Key` on POST: the same key again gets the first answer again, and the work is done once.

1. The key's row is committed first, alone: of two requests at once one makes it (unique constraint).
2. Whoever works under a key holds an advisory lock of its database session. PostgreSQL lets go of it when the process dies,
   so a lock that is free means that nobody is at work, with no timeout to be too short or too long. Held: 409.
3. The work carries the row's id; services write it on every operation they submit, in their own transaction.
4. The answer is stored. A process that dies between 3 and 4 leaves a row without one: the next request with the key
   finds the operations by the id and builds the answer from them; if there are none, the work never committed and runs.

Answers 401, 409, 429 are not kept: they may be different the next time. After a 5xx the row stays without an answer, since
nobody knows whether the work was committed: the next request looks, as in 4.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models.functions import Now
from rest_framework.request import Request
from rest_framework.response import Response

from cloud.api.errors import KeyInFlight, KeyMalformed, KeyReused
from cloud.api.exceptions import problem_handler
from cloud.api.models import IdempotencyKey
from compute.models import Operation
from tenants.services.access import Actor

KEPT_HOURS: Final = 24
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
    row = _take(actor=f"{actor.user_id}:{actor.tenant_id or 'cloud'}", key=text, body_hash=_hash(request))
    if row.status is not None:
        return _replay(row)
    with _alone(row):
        if row.status is not None:
            return _replay(row)
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


def _take(*, actor: str, key: str, body_hash: str) -> IdempotencyKey:
    """The key's row, made now or before. Raises KeyInFlight, KeyReused."""
    _sweep(actor=actor, key=key)
    try:
        with transaction.atomic():
            return IdempotencyKey.objects.create(actor=actor, key=key, body_hash=body_hash)
    except IntegrityError:
        row = IdempotencyKey.objects.filter(actor=actor, key=key).first()
    if row is None:  # given up between the two statements
        raise KeyInFlight
    if row.body_hash != body_hash:
        raise KeyReused
    return row


@contextmanager
def _alone(row: IdempotencyKey) -> Iterator[None]:
    """Hold the key for the block, with the row as it is under the lock. Raises KeyInFlight where somebody else holds it."""
    number = int.from_bytes(row.id.bytes[8:], signed=True)  # the random half of the id
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
        if not cursor.fetchone()[0]:
            raise KeyInFlight
    try:
        try:
            row.refresh_from_db()
        except IdempotencyKey.DoesNotExist:
            raise KeyInFlight
        yield
    finally:
        # A session that is broken has let go already.
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [number])


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
        return
    if response.status_code in _NOT_KEPT:
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
