"""Live parts of a page: the same view renders the whole page, or, asked by htmx, the one part that changes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from cloud.pages.guard import is_fragment

HAVE = "Cenote-Have"
# Django masks the form token anew each time; it is no news.
_FORM_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="[^"]*"')


def render_live(
    request: HttpRequest, page: str, fragment: str, context: Mapping[str, Any], *, status: int = 200
) -> HttpResponse:
    """Render `page` (which includes `fragment`), or `fragment` alone for htmx.

    The browser sends the digest of what it shows; the same content again is 204, so that nothing on the screen moves,
    no selection is lost and no button changes under a finger.
    """
    if not is_fragment(request):
        return render(request, page, dict(context), status=status)
    html = render_to_string(fragment, dict(context), request)
    digest = hashlib.sha256(_FORM_TOKEN.sub("", html).encode()).hexdigest()[:16]
    response = HttpResponse(status=204) if request.headers.get(HAVE) == digest else HttpResponse(html)
    response[HAVE] = digest
    return response
