"""nodeapi, as the node worker sees it: four questions over kept connections."""

from __future__ import annotations

import random
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from compute.node.settings import NodeSettings, SettingsError
from compute.wire import Call, CallAnswer, CallError, HeartbeatAnswer, HostReport, WireError

TIMEOUT_SECONDS = 10.0
TRIES = 3
KEEP_SECONDS = 30.0  # longer than the pause between two heartbeats: most need no new connection, no TLS handshake


class ApiUnavailable(Exception):
    """The control plane did not answer, or said to come again. Whatever was asked may be asked again."""


class ApiRefused(Exception):
    """The control plane understood and said no: `status` and `code` tell why. Asking again changes nothing."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Fetched:
    """Calls to run, and answers to those of a newer release that this one cannot even read."""

    calls: tuple[Call, ...] = ()
    unreadable: tuple[CallAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """What a join gives a host. Both texts but the id are secrets."""

    host_id: str
    node_token: str
    broker_url: str


def join(api: str, *, token: str, name: str, address: str, csr_pem: str, ca_file: Path | None = None) -> Joined:
    """Redeem a one-time token. Raises ApiUnavailable, ApiRefused."""
    body = {"token": token, "name": name, "address": address, "csr_pem": csr_pem}
    with httpx.Client(transport=_transport(api, ca_file), timeout=TIMEOUT_SECONDS) as client:
        try:
            response = client.post(f"{_base(api)}/nodeapi/v1/join", json=body)
            if response.status_code >= 500:
                raise ApiUnavailable(f"join: {response.status_code}")
            if response.status_code >= 400:
                raise ApiRefused(response.status_code, _code(response))
            data = response.json()
            return Joined(data["host_id"], data["node_token"], data["broker_url"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ApiUnavailable(f"join: {type(error).__name__}: {error}") from None


class NodeApi:
    """Safe for many threads. Every method raises ApiUnavailable or ApiRefused and nothing else."""

    def __init__(self, settings: NodeSettings) -> None:
        self._http = httpx.Client(
            base_url=f"{_base(settings.api)}/nodeapi/v1/",
            transport=_transport(settings.api, settings.ca_file),
            timeout=TIMEOUT_SECONDS,
            headers={"Authorization": f"Bearer {settings.token}"},
        )

    def fetch(self, *, limit: int, in_hand: list[str]) -> Fetched:
        """Take waiting calls of this host, oldest first."""
        items = self._ask("POST", "calls/fetch", {"limit": limit, "in_hand": in_hand}).get("calls")
        calls, unreadable = [], []
        for item in items if isinstance(items, list) else []:
            try:
                calls.append(Call.from_json(item))
            except WireError as error:
                # One order that cannot be read must not keep the others from being carried out.
                if (answer := _parked(item, str(error))) is not None:
                    unreadable.append(answer)
        return Fetched(tuple(calls), tuple(unreadable))

    def answer(self, answer: CallAnswer) -> None:
        """Deliver the end of a call."""
        self._ask("POST", f"calls/{answer.call_id}/answer", answer.to_json())

    def heartbeat(self, report: HostReport) -> HeartbeatAnswer:
        """Say that the host lives, and what is on it."""
        try:
            return HeartbeatAnswer.from_json(self._ask("POST", "heartbeat", report.to_json(), tries=1))
        except WireError as error:
            raise ApiUnavailable(f"heartbeat: {error}") from None

    def network(self) -> dict[str, Any]:
        """Return the pool's networks, the hosts' underlay addresses and this host's ports."""
        return self._ask("GET", "network", tries=1)

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, tries: int = TRIES) -> dict[str, Any]:
        """Ask, and again after a broken connection or a 503. Not after a time-out: that has cost enough already."""
        for attempt in range(1, tries + 1):
            try:
                return self._ask_once(method, path, body)
            except (httpx.HTTPError, ValueError) as error:
                if attempt == tries or isinstance(error, httpx.TimeoutException):
                    raise ApiUnavailable(f"{path}: {type(error).__name__}: {error}") from None
            except ApiUnavailable:
                if attempt == tries:
                    raise
            time.sleep(random.uniform(0.05, 0.3) * attempt)  # noqa: S311  spreads hosts, keeps no secret
        raise AssertionError("unreachable: the last try returns or raises")

    def _ask_once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        response = self._http.request(method, path, json=body)
        if response.status_code >= 500 or response.status_code == 429:
            raise ApiUnavailable(f"{path}: {response.status_code}")
        if response.status_code >= 400:
            raise ApiRefused(response.status_code, _code(response))
        data = response.json() if response.content else {}
        return data if isinstance(data, dict) else {}


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return "refused"


def _parked(item: Any, reason: str) -> CallAnswer | None:
    """Return `retry` for an order that cannot be read, None when it does not even say which one it is."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not isinstance(item.get("token"), int):
        return None
    return CallAnswer(item["id"], item["token"], "retry", error=CallError("unreadable_call", reason[:500]))


def _base(api: str) -> str:
    # Over a unix socket the host part is a mere name; the control plane's ALLOWED_HOSTS knows it.
    return "http://nodeapi" if api.startswith("http+unix://") else api.rstrip("/")


def _transport(api: str, ca_file: Path | None) -> httpx.HTTPTransport:
    kept = httpx.Limits(keepalive_expiry=KEEP_SECONDS)
    if api.startswith("http+unix://"):
        return httpx.HTTPTransport(uds=api.removeprefix("http+unix://"), limits=kept)
    if api.startswith("https://"):
        return httpx.HTTPTransport(verify=_trust(ca_file), limits=kept)
    raise SettingsError("CENOTE_NODE_API is an https:// address, or http+unix:// and the path of a socket")


def _trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        # The cloud's own CA and no other: no public one may vouch for the control plane.
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:
        raise SettingsError(f"CENOTE_NODE_CA_FILE {ca_file} cannot be read: {error}") from None
