"""JSON bodies: bounded in size and depth, without NaN, doubled keys or control characters in names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from cloud.api.errors import BodyTooLarge

BODY_LIMIT = 1024 * 1024
DEPTH_LIMIT = 20
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class StrictJSONParser(BaseParser):
    """An object in UTF-8, at most 1 MiB and 20 levels deep."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        raw = stream.read(BODY_LIMIT + 1)
        if len(raw) > BODY_LIMIT:
            raise BodyTooLarge
        if not raw.strip():
            return {}
        if _too_deep(raw):
            raise ParseError(f"The body is nested deeper than {DEPTH_LIMIT} levels.")
        try:
            data = json.loads(raw.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_once)
            _check_texts(data)
        except (ValueError, RecursionError) as error:
            raise ParseError(f"The body is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise ParseError("The body has to be a JSON object.")
        return data


def _too_deep(raw: bytes) -> bool:
    """Counted before parsing, so that no parser recurses; brackets inside texts do not count."""
    depth = 0
    for match in _BRACKET.finditer(_TEXT.sub(b"", raw)):
        depth += 1 if match[0] in b"[{" else -1
        if depth > DEPTH_LIMIT:
            return True
    return False


def _check_texts(data: Any) -> None:
    """PostgreSQL's text holds neither NUL nor half a surrogate pair, wherever in the body they stand."""
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, str) and _UNSTORABLE.search(item):
            raise ValueError("a text holds NUL or half a surrogate pair")


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return data
