"""The OpenAPI description: current, true, and readable without any other server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from django.conf import settings
from django.contrib.staticfiles import finders
from django.test import Client

from cloud.api.schema import build_schema
from tests.api.conftest import Caller
from tests.api.matrix import ROWS, Things
from tests.api.test_matrix import ROUTES, build_things, send


def test_the_checked_in_file_is_current() -> None:
    file = Path(settings.BASE_DIR) / "docs" / "openapi-v1.yaml"
    assert yaml.safe_load(file.read_text()) == build_schema(), "run: manage.py openapi_write"


def test_every_route_is_described_once() -> None:
    described = [operation["operationId"] for path in build_schema()["paths"].values() for operation in path.values()]
    assert sorted(described) == sorted(ROUTES)
    assert build_schema()["openapi"].startswith("3.1")


def _operation(name: str) -> Any:
    for path in build_schema()["paths"].values():
        for operation in path.values():
            if operation["operationId"] == name:
                return operation
    raise AssertionError(name)


def _check(name: str, response: Any) -> None:
    """The answer is what the description says of this status, to the last field."""
    described = _operation(name)["responses"]
    answer = described.get(str(response.status_code)) or described["default"]
    content = answer.get("content", {})
    if not content:
        assert response.content == b""
        return
    assert response["Content-Type"] in content
    schema = {**content[response["Content-Type"]]["schema"], "components": build_schema()["components"]}
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    faults = [f"{error.json_path}: {error.message[-200:]}" for error in validator.iter_errors(response.json())]
    assert not faults, (name, faults[:5])


@pytest.fixture
def things(db: None) -> Things:
    return build_things()


@pytest.mark.parametrize("who", ["owner", "operator", "foreign"])
def test_answers_are_as_described(who: str, things: Things) -> None:
    world = things.world
    caller: Caller = {"owner": world.owner, "operator": world.operator, "foreign": world.foreign}[who]
    # Reads first: what is deleted afterwards can still be shown.
    for name, row in sorted(
        ROWS.items(), key=lambda item: (item[1].method != "GET", item[1].method == "DELETE", item[0])
    ):
        _check(name, send(caller, row, things, as_operator=who == "operator"))


def test_the_page_and_the_schema_need_no_token_and_no_other_server() -> None:
    client = Client()
    assert client.get("/api/v1/openapi.json").json() == build_schema()
    page = client.get("/api/v1/docs").content.decode()
    assert 'id="problem-quota_exceeded"' in page
    assert "https://" not in page
    for piece in page.split('"'):
        if piece.startswith("/static/"):
            assert finders.find(piece.removeprefix("/static/")), piece
