"""Who may see the console: the cloud's operators. For everybody else it does not exist."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse

from cloud.pages.guard import View, actor_of, answer_errors, current_user, to_login


def for_operators(view: Callable[..., HttpResponse]) -> View:
    """Guard of the console's pages. The view gets the operator's actor as its second argument."""

    @functools.wraps(view)
    @answer_errors
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return to_login(request)
        if not current_user(request).is_operator:
            raise Http404
        return view(request, actor_of(request), *args, **kwargs)

    return wrapped
