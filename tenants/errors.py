"""Domain errors: a stable code, a sentence for people, data for programs. No HTTP: `cloud.problems` maps codes to it.

A code is never changed and never used again for something else. Sentences may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class DomainError(Exception):
    """Something the product refuses, for a reason that the caller may be told.

    `detail` is one sentence that is safe to show to the caller; `data` is JSON-ready and safe to show as well.
    """

    code: ClassVar[str] = "error"
    sentence: ClassVar[str] = "The request cannot be carried out."

    def __init__(self, detail: str = "", **data: Any) -> None:
        self.detail: str = detail or self.sentence
        self.data: dict[str, Any] = data
        super().__init__(self.detail)


class PermissionDenied(DomainError):
    """The actor is known here, and its role, or its token's scope, lacks the permission."""

    code = "permission_denied"
    sentence = "Your role does not allow this."


class TenantDisabled(PermissionDenied):
    """The tenant, or one above it, is switched off."""

    code = "tenant_disabled"
    sentence = "This tenant is disabled."


class NotFound(DomainError):
    """Absent, or another tenant's: the two look alike on purpose, so no text may tell them apart."""

    code = "not_found"
    sentence = "There is no such object."


class InvalidInput(DomainError):
    """Fields are wrong. `errors` is a list of {pointer, code, detail}; pointers are JSON pointers ("/name")."""

    code = "invalid_input"
    sentence = "The input is not valid."

    def __init__(self, detail: str = "", *, errors: Sequence[Mapping[str, str]] = (), **data: Any) -> None:
        self.errors: list[dict[str, str]] = [dict(error) for error in errors]
        if not detail and self.errors:
            detail = " ".join(error.get("detail", "") for error in self.errors).strip()
        super().__init__(detail, **data)

    @classmethod
    def field(cls, pointer: str, code: str, detail: str) -> InvalidInput:
        """Exactly one wrong field."""
        return cls(errors=[{"pointer": pointer, "code": code, "detail": detail}])


class Conflict(DomainError):
    """The object is in a state that does not allow this now."""

    code = "conflict"
    sentence = "The object's present state does not allow this."


class NameTaken(Conflict):
    code = "name_taken"
    sentence = "This name is in use already."


class VersionMismatch(DomainError):
    """The caller's version is not the newest: somebody else changed the object first."""

    code = "version_mismatch"
    sentence = "The object has changed since you read it; read it again."


class AmbiguousName(DomainError):
    """A name fits more than one object. data: name, ids."""

    code = "ambiguous_name"
    sentence = "This name fits more than one object; use the id."


class TokenInvalid(DomainError):
    """Unknown, expired, revoked, or its user is disabled: the caller is not told which."""

    code = "token_invalid"
    sentence = "The token is not valid."


class QuotaExceeded(DomainError):
    """A level of the tenant tree has no room. data: tenant {id, name}, resource, limit, used, asked.

    tenant.name, limit and used are None where the level is a parent that the actor cannot see.
    """

    code = "quota_exceeded"
    sentence = "The quota does not leave room for this."


class LedgerMismatch(DomainError):
    """The quota ledger would become untrue (a release below zero, a missing row): a defect, never a user's mistake."""

    code = "ledger_mismatch"
    sentence = "The quota ledger does not agree; an operator has to look at it."
