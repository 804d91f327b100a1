"""Everything that goes wrong leaves as application/problem+json; nothing leaves as a traceback."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoDenied
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions as drf
from rest_framework.response import Response
from rest_framework.views import set_rollback

from cloud.problems import problem, problem_for
from tenants.errors import DomainError, NotFound, TokenInvalid

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"

_TITLES = {
    "authentication_failed": "Token invalid",
    "method_not_allowed": "Method not allowed",
    "not_authenticated": "Token required",
    "parse_error": "Unreadable body",
    "throttled": "Too many requests",
    "unsupported_media_type": "Unsupported media type",
    "not_acceptable": "Not acceptable",
}


def problem_handler(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's exception handler. What nobody foresaw is logged with its traceback and leaves as a bare 500."""
    request_id = getattr(context.get("request"), "request_id", "")
    set_rollback()
    if isinstance(error, Http404):
        error = NotFound()
    if isinstance(error, DjangoDenied):
        error = drf.PermissionDenied()
    if isinstance(error, DomainError):
        status, body = problem_for(error, request_id=request_id)
        headers = {"WWW-Authenticate": 'Bearer realm="cenote"'} if isinstance(error, TokenInvalid) else {}
        if body.get("retryable"):
            headers["Retry-After"] = "2"
        return _response(status, body, headers)
    if isinstance(error, drf.APIException):
        return _framework(error, request_id)
    if isinstance(error, OperationalError | InterfaceError):
        log.error("database: %s", str(error).strip())
        body = problem(
            status=503,
            code="database_unavailable",
            title="Try again",
            detail="The database is busy or unavailable. Try again; with an Idempotency-Key nothing is done twice.",
            request_id=request_id,
            retryable=True,
        )
        return _response(503, body, {"Retry-After": "2"})
    if isinstance(error, DatabaseError) and not isinstance(error, IntegrityError):
        # A value that PostgreSQL cannot hold (NUL, out of range) slipped past the serializers: still the caller's input.
        log.warning("refused by the database: %s", str(error).strip())
        body = problem(
            status=400,
            code="invalid_input",
            title="Invalid input",
            detail="A value is out of range.",
            request_id=request_id,
        )
        return _response(400, body, {})
    log.exception("unforeseen error", exc_info=error)
    body = problem(
        status=500,
        code="internal_error",
        title="Internal error",
        detail="Something went wrong that should not. The operators find it by the request id.",
        request_id=request_id,
    )
    return _response(500, body, {})


def _framework(error: drf.APIException, request_id: str) -> Response:
    code = getattr(error, "default_code", "error")
    headers = {}
    if isinstance(error, drf.ValidationError):
        errors = list(_flatten(error.detail))
        body = problem(
            status=400,
            code="invalid_input",
            title="Invalid input",
            detail=" ".join(item["detail"] for item in errors)[:1000],
            errors=errors,
            request_id=request_id,
        )
        return _response(400, body, {})
    if isinstance(error, drf.Throttled):
        headers["Retry-After"] = str(int(getattr(error, "wait", None) or 0) + 1)
    if isinstance(error, drf.NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="cenote"'
    if code == "idempotency_key_in_flight":
        headers["Retry-After"] = "1"
    title = _TITLES.get(code, str(code).replace("_", " ").capitalize())
    body = problem(status=error.status_code, code=code, title=title, detail=str(error.detail), request_id=request_id)
    return _response(error.status_code, body, headers)


def _flatten(detail: Any, pointer: str = "") -> Any:
    if isinstance(detail, dict):
        for name, inner in detail.items():
            step = "" if name == "non_field_errors" else f"/{name}"
            yield from _flatten(inner, pointer + step)
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            nested = isinstance(inner, dict | list)
            if nested and not inner:
                continue
            yield from _flatten(inner, f"{pointer}/{index}" if nested else pointer)
    else:
        yield {"pointer": pointer or "/", "code": getattr(detail, "code", "invalid"), "detail": str(detail)}


def _response(status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(body, status=status, headers=headers, content_type=MEDIA_TYPE)
