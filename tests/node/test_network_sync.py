from __future__ import annotations

import threading
from typing import Any

import pytest

from compute.node import network_sync
from compute.node.client import ApiRefused, ApiUnavailable
from compute.node.network_sync import NetworkSync
from tests.node.control import wait_for


class Api:
    def __init__(self) -> None:
        self.view: dict[str, Any] = {"networks": [], "hosts": [], "ports": []}
        self.failure: Exception | None = None

    def network(self) -> dict[str, Any]:
        if self.failure:
            raise self.failure
        return self.view


def test_each_round_hands_over_what_nodeapi_says() -> None:
    api = Api()
    seen: list[Any] = []
    sync = NetworkSync(api, seen.append)
    assert sync.once()
    assert seen == [api.view]


def test_other_networks_than_before_are_told_and_so_are_those_that_came_back() -> None:
    told: list[int] = []
    api = Api()
    sync = NetworkSync(api, lambda view: None, changed=lambda: told.append(1))
    for networks, expected in (([], 1), ([], 1), ([{"id": "a"}], 2), ([{"id": "a"}], 2)):
        api.view = {**api.view, "networks": networks}
        assert sync.once()
        assert len(told) == expected
    api.failure = ApiUnavailable("gone")
    sync.once()
    api.failure = None
    sync.once()
    assert len(told) == 3


@pytest.mark.parametrize("failure", [ApiUnavailable("gone"), ApiRefused(403, "no")])
def test_without_an_answer_nothing_is_changed(failure: Exception) -> None:
    api = Api()
    seen: list[Any] = []
    api.failure = failure
    assert not NetworkSync(api, seen.append).once()
    assert seen == []


def test_a_network_that_cannot_be_built_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_sync, "RETRY_SECONDS", 0.02)
    rounds = []

    def apply(view: dict[str, Any]) -> None:
        rounds.append(view)
        if len(rounds) < 3:
            raise RuntimeError("nft is missing")

    sync = NetworkSync(Api(), apply)
    thread = threading.Thread(target=sync.run, daemon=True)
    thread.start()
    wait_for(lambda: len(rounds) == 3, 3, "the third round")
    sync.stop()
    thread.join(2)
    assert not thread.is_alive()
    assert len(rounds) == 3
