"""Entity tags: `"<version>"`, or `"<version>-<digest>"` where an object shows more than its own row.

An instance's power and a host's load change without its version: the digest keeps a `304` from hiding that. `If-Match`
compares versions alone, since a guest that went from starting to running is no reason to refuse a change.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.errors import InvalidInput

_TAG = re.compile(r'(?:W/)?"(?P<version>[0-9]{1,18})(?:-[0-9a-f]{1,64})?"')


def wanted_version(request: Request) -> int | None:
    """The version that `If-Match` names; None without the header or for `*`. Raises InvalidInput."""
    text = request.headers.get("If-Match")
    if text is None or text.strip() == "*":
        return None
    match = _TAG.fullmatch(text.strip())
    if match is None:
        raise InvalidInput('If-Match takes one ETag as it was given, for example "7".')
    return int(match["version"])


def tagged(request: Request, body: dict[str, Any], *, version: int, computed: bool = False) -> Response:
    """The answer with its ETag, or 304 where the caller has it already. `computed`: the body shows more than the row."""
    tag = f'"{version}-{_digest(body)}"' if computed else f'"{version}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    known = [item.strip().removeprefix("W/") for item in request.headers.get("If-None-Match", "").split(",")]
    if request.method in ("GET", "HEAD") and (tag in known or known == ["*"]):
        return Response(status=304, headers=headers)
    return Response(body, headers=headers)


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, cls=DjangoJSONEncoder)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
