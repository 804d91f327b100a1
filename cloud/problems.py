"""The one table from domain error codes to HTTP, and the RFC 9457 body. A code without a row here fails a test."""

from __future__ import annotations

from typing import Any

from tenants.errors import DomainError

# code -> (status, title)
STATUSES: dict[str, tuple[int, str]] = {
    "ambiguous_name": (409, "Ambiguous name"),
    "conflict": (409, "Conflict"),
    "host_in_use": (409, "Host in use"),
    "host_unavailable": (503, "Host unavailable"),
    "in_use": (409, "In use"),
    "invalid_input": (400, "Invalid input"),
    "invalid_state": (409, "Not possible in this state"),
    "join_refused": (403, "Join refused"),
    "ledger_mismatch": (500, "Ledger mismatch"),
    "name_taken": (409, "Name taken"),
    "no_address_left": (409, "No address left"),
    "no_valid_host": (409, "No host can take this"),
    "not_movable": (409, "The instance cannot be moved"),
    "not_found": (404, "Not found"),
    "operation_in_progress": (409, "Operation in progress"),
    "permission_denied": (403, "Permission denied"),
    "plan_outdated": (409, "The world has changed since the plan was drawn up"),
    "plan_refused": (409, "The plan would break a rule"),
    "promise_not_placeable": (409, "Promise cannot be kept"),
    "quota_exceeded": (409, "Quota exceeded"),
    "stale_answer": (409, "Stale answer"),
    "tenant_disabled": (403, "Tenant disabled"),
    "token_invalid": (401, "Token invalid"),
    "transition_refused": (409, "Changed meanwhile"),
    "version_mismatch": (412, "Changed since it was read"),
}
RETRYABLE = frozenset({"host_unavailable", "operation_in_progress", "transition_refused", "no_valid_host"})


def problem(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    request_id: str = "",
    errors: list[dict[str, str]] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Return an RFC 9457 body. `code` is stable; `type` is its address in the documentation."""
    body: dict[str, Any] = {
        "type": f"/api/v1/docs#problem-{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = errors
    return {**extra, **body}


def problem_for(error: DomainError, *, request_id: str = "") -> tuple[int, dict[str, Any]]:
    """Return status and body for a domain error. Raises KeyError for a code that nobody entered above."""
    status, title = STATUSES[error.code]
    return status, problem(
        status=status,
        code=error.code,
        title=title,
        detail=error.detail,
        request_id=request_id,
        errors=list(getattr(error, "errors", [])),
        **({"retryable": True} if error.code in RETRYABLE else {}),
        **error.data,
    )
