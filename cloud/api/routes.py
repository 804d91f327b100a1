"""A route in one decorator: permission, shape of query and body, answer, OpenAPI. Handlers get a checked `Call`.

    class Flavors(Door):
        @route("flavor_list", permission="flavor.read", page_of=FlavorAnswer)
        def list(self, call: Call) -> Response: ...

Permissions are declared here and judged by the services; `tests/api/test_matrix.py` holds the two together for every
route, role and foreign tenant, and fails for a route that this decorator has not seen.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.http import QueryDict
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from cloud.api import idempotency
from cloud.api.authentication import actor_of
from cloud.api.etags import wanted_version
from cloud.api.fields import Answer, StrictSerializer, Text, render
from cloud.api.throttling import FairThrottle
from compute.models import Operation
from tenants.scope import tenant_scope
from tenants.services.access import Actor, visible_tenant_ids

PROBLEM_TYPE: Final = "application/problem+json"
PAGE_PARAMETERS: Final = ("limit", "cursor")


@dataclass(frozen=True, slots=True)
class Call:
    """One request whose shape is right: `query` and `body` hold what their serializers let through."""

    request: Request
    actor: Actor
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    if_version: int | None
    request_key: uuid.UUID | None

    def render(self, answer: type[Answer], row: Any) -> dict[str, Any]:
        """A row as the caller may see it."""
        return render(answer, row, is_operator=self.actor.is_operator)


@dataclass(frozen=True, slots=True)
class Route:
    """What is declared of one route. `permission` None: whoever has a valid token."""

    name: str
    permission: str | None
    body: type[StrictSerializer] | None
    query: type[StrictSerializer] | None
    status: int
    pages: bool


class ProblemField(Answer):
    pointer = serializers.CharField(help_text="JSON pointer into the body; ?name for a query parameter")
    code = serializers.CharField()
    detail = serializers.CharField()


class Problem(Answer):
    """RFC 9457. `code` is stable; further members depend on it (quota_exceeded: resource, limit, used, asked, tenant;
    no_valid_host: reasons, remedies, decision_id)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()
    errors = ProblemField(many=True, required=False)  # type: ignore[assignment]  # the field's name is RFC 9457's custom
    request_id = serializers.CharField()
    retryable = serializers.BooleanField(required=False)


class PageQuery(StrictSerializer):
    limit = serializers.IntegerField(
        required=False, min_value=1, max_value=200, help_text="rows in one page, 50 unless told"
    )
    cursor = Text(required=False, max_length=1000, help_text="next_cursor of the page before")


class Door(ViewSet):
    """The base of every resource. The tenant scope is open while a handler runs: the second wall between tenants."""

    http_method_names = ["get", "head", "post", "patch", "delete"]
    throttle_classes = (FairThrottle,)

    def rebuild(self, operations: list[Operation], actor: Actor) -> Response | None:
        """The answer to a POST whose process died after its commit, from the operations it left. None: run it again."""
        return None


Handler = Callable[..., Response]


def route(
    name: str,
    *,
    permission: str | None,
    answer: Any = None,
    page_of: type[Answer] | None = None,
    body: type[StrictSerializer] | None = None,
    query: type[StrictSerializer] | None = None,
    status: int = 200,
    secret: bool = False,
    paths: Mapping[str, str] | None = None,
    dry_answer: type[Answer] | None = None,
    slow_answer: type[Answer] | None = None,
) -> Callable[[Handler], Handler]:
    """Declare a handler. `name` is noun_verb and becomes the operationId. `secret`: the answer holds one, shown once.
    `paths`: what a path parameter means, where it is not the usual "id or name". `dry_answer`: what `?dry_run=true`
    answers, with 200; the query has to declare the parameter. `slow_answer`: what is answered with 202 where the query
    asks for something slow.
    """
    declared = Route(name=name, permission=permission, body=body, query=query, status=status, pages=page_of is not None)

    def wrap(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def inner(self: Door, request: Request, **kwargs: Any) -> Response:
            actor = actor_of(request)
            parsed_query = _query(request, declared)
            parsed_body = _body(request, declared)
            version = wanted_version(request)

            def run(request_key: uuid.UUID | None) -> Response:
                call = Call(request, actor, parsed_query, parsed_body, version, request_key)
                with tenant_scope(visible_tenant_ids(actor)):
                    return handler(self, call, **kwargs)

            # What changes nothing may be done twice.
            if request.method != "POST" or parsed_query.get("dry_run") == "true":
                return run(None)
            return idempotency.once(request, actor, run, rebuild=self.rebuild, secret=secret)

        inner.route = declared  # type: ignore[attr-defined]
        described: Handler = extend_schema(
            operation_id=name,
            request=body,
            parameters=_parameters(handler, declared, paths or {}),
            responses=_responses(declared, answer, page_of, dry_answer, slow_answer),
            description=(handler.__doc__ or "").strip(),
        )(inner)
        return described

    return wrap


def _query(request: Request, declared: Route) -> Mapping[str, Any]:
    given = request.query_params
    data: dict[str, Any] = {}
    for key in given:
        values = given.getlist(key)
        if len(values) > 1:
            raise _wrong_query(key, "repeated", f"{key} may be given once.")
        data[key] = values[0]
    known = _query_fields(declared)
    for key in data:
        if key not in known:
            raise _wrong_query(key, "unknown_parameter", f"There is no parameter {key[:64]}.")
    if declared.query is None:
        return {}
    own = {key: value for key, value in data.items() if key not in PAGE_PARAMETERS}
    parser = declared.query(data=own)
    if not parser.is_valid():
        raise serializers.ValidationError({f"?{key}": value for key, value in parser.errors.items()})
    validated: Mapping[str, Any] = parser.validated_data
    return validated


def _query_fields(declared: Route) -> set[str]:
    own = set(declared.query().fields) if declared.query is not None else set()
    return own | set(PAGE_PARAMETERS if declared.pages else ())


def _wrong_query(key: str, code: str, text: str) -> serializers.ValidationError:
    return serializers.ValidationError({f"?{key[:64]}": [serializers.ErrorDetail(text, code=code)]})


def _body(request: Request, declared: Route) -> Mapping[str, Any]:
    if request.method in ("GET", "HEAD", "DELETE"):
        return {}
    # A request without a body and with a form's content type: the framework hands out an empty form.
    data = {} if isinstance(request.data, QueryDict) else request.data
    parser = (declared.body or StrictSerializer)(data=data)
    parser.is_valid(raise_exception=True)
    validated: Mapping[str, Any] = parser.validated_data
    return validated


def _parameters(handler: Handler, declared: Route, paths: Mapping[str, str]) -> list[Any]:
    names = list(handler.__code__.co_varnames[2 : handler.__code__.co_argcount])
    found: list[Any] = [
        OpenApiParameter(name, str, OpenApiParameter.PATH, description=paths.get(name, "id or name")) for name in names
    ]
    if declared.pages:
        found.append(PageQuery)
    if declared.query is not None:
        found.append(declared.query)
    return found


def _responses(
    declared: Route,
    answer: Any,
    page_of: type[Answer] | None,
    dry_answer: type[Answer] | None,
    slow_answer: type[Answer] | None,
) -> dict[Any, Any]:
    if page_of is not None:
        noun = page_of.__name__.removesuffix("Answer")
        fields = {"items": page_of(many=True), "next_cursor": serializers.CharField(allow_null=True)}
        answer = type(f"{noun}Page", (Answer,), {**fields, "__module__": __name__})
    found: dict[Any, Any] = {declared.status: answer if answer is not None else OpenApiResponse(description="Done")}
    if dry_answer is not None:
        found[200] = OpenApiResponse(dry_answer, description="With dry_run=true: nothing was taken")
    if slow_answer is not None:
        found[202] = OpenApiResponse(slow_answer, description="Accepted: an operation does it")
    found["default", PROBLEM_TYPE] = OpenApiResponse(Problem, description="A problem (RFC 9457)")
    return found
