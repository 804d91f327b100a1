"""OpenAPI 3.1 from the routes themselves; `docs/openapi-v1.yaml` is its checked-in copy, which a test holds current."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from django.urls import include, path
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator

from cloud.api.fields import Answer, StrictSerializer


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "cloud.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "An API token: cnt_..."}


_KEY: dict[str, Any] = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "The same key with the same body again, within a day, gets the first answer again.",
}
_VERSION: dict[str, Any] = {
    "in": "header",
    "name": "If-Match",
    "schema": {"type": "string"},
    "description": "The ETag of the object as you know it; 412 if it has changed since.",
}


@functools.cache
def build_schema() -> dict[str, Any]:
    """The schema as JSON data; built once in a process."""
    generator = SchemaGenerator(patterns=[path("api/v1/", include("cloud.api.v1.urls"))])  # type: ignore[no-untyped-call]
    schema: dict[str, Any] = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    for where, operations in schema["paths"].items():
        for method, operation in operations.items():
            noun, _, verb = operation["operationId"].partition("_")
            operation["summary"] = f"{verb.replace('_', ' ')} {noun}".capitalize()
            parameters = operation.setdefault("parameters", [])
            if method == "post":
                parameters.append(_KEY)
            if method in ("patch", "delete") or "/actions/" in where:
                parameters.append(_VERSION)
    for name, component in schema["components"]["schemas"].items():
        if component.get("description") in (inspect.getdoc(Answer), inspect.getdoc(StrictSerializer)):
            del component["description"]  # the base class's own words say nothing about this shape
        if name.endswith("Input"):
            component["additionalProperties"] = False
    return schema
