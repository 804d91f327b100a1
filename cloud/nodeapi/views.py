"""Plain Django views: a handful of routes with one kind of caller need no framework, and every millisecond here is paid
by each step of each operation."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from cloud.problems import problem_for
from compute.models import Host
from compute.selectors.nodes import network_of
from compute.services import hosts, nodes
from compute.wire import CallAnswer, HostReport, WireError
from tenants.errors import DomainError, InvalidInput, TokenInvalid

log = logging.getLogger(__name__)
BODY_LIMIT = 4 * 1024 * 1024

View = Callable[..., HttpResponse]


def _door(method: str) -> Callable[[View], View]:
    """Check the method, turn domain errors into problems, and never let a traceback out."""

    def wrap(view: View) -> View:
        @csrf_exempt
        @wraps(view)
        def inner(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if request.method != method:
                return JsonResponse({"code": "method_not_allowed"}, status=405, headers={"Allow": method})
            try:
                return view(request, **kwargs)
            except WireError as error:
                return _problem(InvalidInput(str(error)), request)
            except DomainError as error:
                return _problem(error, request)
            except DatabaseError:
                log.exception("nodeapi: the database did not answer")
                return JsonResponse({"code": "database_unavailable"}, status=503, headers={"Retry-After": "2"})

        return inner

    return wrap


def _problem(error: DomainError, request: HttpRequest) -> HttpResponse:
    status, body = problem_for(error, request_id=getattr(request, "request_id", ""))
    return JsonResponse(body, status=status, content_type="application/problem+json")


def _host(request: HttpRequest) -> Host:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise TokenInvalid
    return nodes.authenticate_node(token.strip())


def _body(request: HttpRequest) -> dict[str, Any]:
    if int(request.headers.get("Content-Length") or 0) > BODY_LIMIT:
        raise InvalidInput("The message is too large.")
    try:
        data = json.loads(request.read() or b"{}")
    except (ValueError, RecursionError):
        raise InvalidInput("The message is not JSON.")
    if not isinstance(data, dict):
        raise InvalidInput("The message is not an object.")
    return data


@_door("POST")
def join(request: HttpRequest) -> HttpResponse:
    """Redeem a one-time token. The only route without a node token."""
    body = _body(request)
    fields = {name: body.get(name) for name in ("token", "name", "address", "csr_pem")}
    for name, value in fields.items():
        if not isinstance(value, str) or not value:
            raise InvalidInput.field(f"/{name}", "required", f"{name} is a text and has to be given.")
    joined = hosts.join_host(**{name: str(value) for name, value in fields.items()})
    return JsonResponse(
        {
            "host_id": str(joined.host.id),
            "name": joined.host.name,
            "pool": joined.host.pool.name,
            "node_token": joined.node_token,
            "broker_url": joined.broker_url,
            "ca_pem": joined.ca_pem,
            "cert_pem": joined.cert_pem,
        },
        status=201,
    )


@_door("POST")
def fetch(request: HttpRequest) -> HttpResponse:
    host, body = _host(request), _body(request)
    limit = body.get("limit", nodes.FETCH_LIMIT)
    calls = nodes.fetch_calls(host=host, limit=limit if isinstance(limit, int) and limit > 0 else nodes.FETCH_LIMIT)
    return JsonResponse({"calls": [call.to_json() for call in calls]})


@_door("POST")
def answer(request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
    host = _host(request)
    nodes.answer_call(host=host, call_id=call_id, answer=CallAnswer.from_json(_body(request)))
    return HttpResponse(status=204)


@_door("POST")
def heartbeat(request: HttpRequest) -> HttpResponse:
    host = _host(request)
    report = HostReport.from_json(_body(request))
    return JsonResponse(nodes.heartbeat(host=host, report=report).to_json())


@_door("GET")
def network(request: HttpRequest) -> HttpResponse:
    return JsonResponse(network_of(host=_host(request)))
