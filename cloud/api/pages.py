"""The schema and its readable page; both open to everybody, both without any other server."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cloud.api.schema import build_schema
from cloud.problems import STATUSES
from tenants.errors import NotFound


@require_safe
def openapi(request: HttpRequest) -> HttpResponse:
    return JsonResponse(build_schema(), headers={"Cache-Control": "public, max-age=60"})


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    problems = [{"code": code, "status": status, "title": title} for code, (status, title) in sorted(STATUSES.items())]
    return render(request, "api/docs.html", {"problems": problems})


class Nowhere(APIView):
    """Every address below /api/v1/ that is no route: a problem in JSON, as everything else here."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        raise NotFound("There is no such address.")

    def get(self, request: Request, rest: str) -> Response:
        raise NotFound
