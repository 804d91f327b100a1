"""Random requests made from the published description: no 5xx, and every answer as described."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from cloud.api.schema import build_schema
from tests.api.conftest import build_world

# A case costs some 15 ms here and there are 57 routes: a twentieth of what pure properties are tried on, 100 at most.
EXAMPLES = min(100, int(os.environ.get("CENOTE_TEST_EXAMPLES", "80")) // 20)
CHECKS = (not_a_server_error, response_schema_conformance, content_type_conformance)


@pytest.mark.timeout(1200)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("who", ["owner", "operator"])
def test_no_request_that_can_be_made_up_breaks_the_api(who: str) -> None:
    world = build_world()
    caller = world.owner if who == "owner" else world.operator
    schema = schemathesis.openapi.from_dict(build_schema())
    schema.app = WSGIHandler()
    faults: list[str] = []
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # a description that is no good fails here

        def one(case: Any) -> None:
            response = case.call(headers={"Authorization": f"Bearer {caller.token}"})
            case.validate_response(response, checks=list(CHECKS))

        strategy = operation.as_strategy()
        _run(strategy, one, faults, operation.label)
    assert not faults, "\n".join(faults[:10])


def _run(strategy: Any, one: Any, faults: list[str], label: str) -> None:
    quick = settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    try:
        quick(given(strategy)(one))()  # type: ignore[no-untyped-call]
    except Exception as error:
        faults.append(f"{label}: {error}")
