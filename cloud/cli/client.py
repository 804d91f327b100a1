"""HTTP to the API: one key for each change, so that it can be sent again without being done again."""

from __future__ import annotations

import json
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

from cloud.cli.errors import USAGE, CliError, from_problem

_TRIES: Final = 6
_LONGEST_PAUSE: Final = 5.0
_PAGE: Final = 200


class Client:
    """One identity at one cloud. `idempotency_key`: for the first POST; without one each POST gets its own."""

    def __init__(self, *, url: str, token: str, debug: bool = False, idempotency_key: str | None = None) -> None:
        if not token:
            raise CliError(
                "no token: run `cenote login`, or set CENOTE_TOKEN (CENOTE_OPERATOR_TOKEN for --as-operator)", USAGE
            )
        try:
            self._http = httpx.Client(
                base_url=url.rstrip("/") + "/api/v1/",
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "cenote-cli"},
                timeout=httpx.Timeout(90, connect=5),
                trust_env=False,
            )
        except (httpx.InvalidURL, UnicodeError, ValueError) as error:
            raise CliError(f"{url} is no address: {error}", USAGE)
        self._token = token
        self._debug = debug
        self._key = idempotency_key

    def get(self, path: str, **query: Any) -> Any:
        return self._send("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Any:
        return self._send("POST", path, body=body or {}, query=query)

    def patch(self, path: str, body: Mapping[str, Any], **query: Any) -> Any:
        return self._send("PATCH", path, body=body, query=query)

    def delete(self, path: str, **query: Any) -> Any:
        return self._send("DELETE", path, query=query)

    def text(self, path: str, **query: Any) -> str:
        """An answer that is no JSON."""
        return self._ask("GET", path, query=query).text

    def pages(self, path: str, *, most: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page, or the first `most` of them."""
        cursor = None
        while True:
            limit = _PAGE if most is None else min(most, _PAGE)
            page = self.get(path, limit=limit, cursor=cursor, **query)
            for item in page["items"]:
                if most is not None:
                    most -= 1
                yield item
            cursor = page["next_cursor"]
            if cursor is None or most == 0:
                return

    def _send(self, method: str, path: str, *, query: Mapping[str, Any], body: Mapping[str, Any] | None = None) -> Any:
        response = self._ask(method, path, query=query, body=body)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise CliError(f"{self._http.base_url} does not speak the Cenote API")

    def _ask(
        self, method: str, path: str, *, query: Mapping[str, Any], body: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        headers = {}
        if method == "POST":
            headers["Idempotency-Key"] = self._key or str(uuid.uuid4())
            self._key = None
        known = {name: value for name, value in query.items() if value is not None}
        request = self._http.build_request(method, path, params=known, json=body, headers=headers)
        if self._debug:
            sys.stderr.write(self._as_curl(request) + "\n")
        response = self._try(request)
        if response.status_code >= 400:
            raise from_problem(response.status_code, response.content)
        return response

    def _try(self, request: httpx.Request) -> httpx.Response:
        """Send, and again where that cannot do the work twice: nothing arrived, the key protects, or nothing changes."""
        for attempt in range(1, _TRIES + 1):
            pause = min(0.2 * 2 ** (attempt - 1), _LONGEST_PAUSE)
            try:
                response = self._http.send(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure: Exception = error
            except httpx.TransportError as error:
                if request.method not in ("GET", "POST"):
                    raise CliError(
                        f"the connection to {self._http.base_url.host} broke; see whether it was done: {error}"
                    )
                failure = error
            else:
                if not _again(response) or attempt == _TRIES:
                    return response
                pause = max(pause, _retry_after(response))
                time.sleep(pause)
                continue
            if attempt < _TRIES:
                time.sleep(pause)
        raise CliError(f"no answer from {str(self._http.base_url).removesuffix('api/v1/')}: {failure}")

    def _as_curl(self, request: httpx.Request) -> str:
        parts = ["curl", "-X", request.method]
        for name in ("Authorization", "Idempotency-Key", "Content-Type"):
            if name in request.headers:
                value = "Bearer $CENOTE_TOKEN" if name == "Authorization" else request.headers[name]
                # Double quotes let a shell fill in the token, which is never shown.
                parts += ["-H", f'"{name}: {value}"' if name == "Authorization" else shlex.quote(f"{name}: {value}")]
        if request.content:
            parts += ["--data", shlex.quote(_masked(request.content))]
        return " ".join([*parts, shlex.quote(str(request.url))])


def _masked(content: bytes) -> str:
    body = json.loads(content)
    for name in ("password", "user_data"):
        if name in body:
            body[name] = "***"
    return json.dumps(body)


def _again(response: httpx.Response) -> bool:
    if response.status_code in (429, 503):
        return True
    return response.status_code == 409 and b'"idempotency_key_in_flight"' in response.content


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "0")
    return min(float(text), _LONGEST_PAUSE) if text.isascii() and text.isdecimal() else 0.0
