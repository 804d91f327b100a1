"""Errors that only this door knows: they are about HTTP, not about the product."""

from __future__ import annotations

from rest_framework.exceptions import APIException


class BodyTooLarge(APIException):
    status_code = 413
    default_code = "body_too_large"
    default_detail = "The body is larger than 1 MiB."


class KeyReused(APIException):
    status_code = 422
    default_code = "idempotency_key_reused"
    default_detail = "This Idempotency-Key was used for another request. Use a fresh one."


class KeyInFlight(APIException):
    status_code = 409
    default_code = "idempotency_key_in_flight"
    default_detail = "The first request with this Idempotency-Key is still running. Try again in a moment."


class KeyMalformed(APIException):
    status_code = 400
    default_code = "idempotency_key_malformed"
    default_detail = "An Idempotency-Key is 1 to 255 printable ASCII characters."
