"""nodeapi, as the node worker sees it: five questions over one kept connection."""

from __future__ import annotations

from typing import Any

import httpx

from compute.node.settings import NodeSettings
from compute.wire import Call, CallAnswer, HeartbeatAnswer, HostReport

TIMEOUT_SECONDS = 10.0


class ApiUnavailable(Exception):
    """The control plane did not answer, or said to come again. Whatever was asked may be asked again."""


class ApiRefused(Exception):
    """The control plane understood and said no: `status` and `code` tell why. Asking again changes nothing."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


class NodeApi:
    """Safe for many threads. Every method raises ApiUnavailable or ApiRefused and nothing else."""

    def __init__(self, settings: NodeSettings) -> None:
        self._http = httpx.Client(
            base_url=f"{_base(settings.api)}/nodeapi/v1/",
            transport=_transport(settings),
            timeout=TIMEOUT_SECONDS,
            headers={"Authorization": f"Bearer {settings.token}"},
        )

    def fetch(self, *, limit: int, in_hand: list[str]) -> list[Call]:
        """Take waiting calls of this host, oldest first."""
        data = self._ask("POST", "calls/fetch", {"limit": limit, "in_hand": in_hand})
        return [Call.from_json(item) for item in data.get("calls", [])]

    def answer(self, answer: CallAnswer) -> None:
        """Deliver the end of a call."""
        self._ask("POST", f"calls/{answer.call_id}/answer", answer.to_json())

    def heartbeat(self, report: HostReport) -> HeartbeatAnswer:
        """Say that the host lives, and what is on it."""
        return HeartbeatAnswer.from_json(self._ask("POST", "heartbeat", report.to_json()))

    def network(self) -> dict[str, Any]:
        """Return the pool's networks, the hosts' underlay addresses and this host's ports."""
        return self._ask("GET", "network")

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
            if response.status_code >= 500 or response.status_code == 429:
                raise ApiUnavailable(f"{path}: {response.status_code}")
            data = response.json() if response.content else {}
        except (httpx.HTTPError, ValueError) as error:
            raise ApiUnavailable(f"{path}: {type(error).__name__}: {error}") from None
        if response.status_code >= 400:
            raise ApiRefused(response.status_code, str(data.get("code", "refused")))
        return data if isinstance(data, dict) else {}


def _base(api: str) -> str:
    # Over a unix socket the host part is a mere name; the control plane's ALLOWED_HOSTS knows it.
    return "http://nodeapi" if api.startswith("http+unix://") else api.rstrip("/")


def _transport(settings: NodeSettings) -> httpx.HTTPTransport:
    if settings.api.startswith("http+unix://"):
        return httpx.HTTPTransport(uds=settings.api.removeprefix("http+unix://"))
    if settings.api.startswith("https://"):
        return httpx.HTTPTransport(verify=str(settings.ca_file) if settings.ca_file else True)
    raise ValueError("CENOTE_NODE_API is an https:// address or http+unix:// and the path of a socket")
