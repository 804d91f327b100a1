"""What ends a command, as exit codes that scripts may rely on."""

from __future__ import annotations

import json
from typing import Any

OK, ERROR, USAGE, NOT_FOUND, CONFLICT, TIMEOUT = range(6)

_CODES = {404: NOT_FOUND, 409: CONFLICT, 412: CONFLICT}


class CliError(Exception):
    """One line for people and an exit code."""

    def __init__(self, line: str, exit_code: int = ERROR) -> None:
        super().__init__(line)
        self.line = line
        self.exit_code = exit_code


def from_problem(status: int, body: bytes) -> CliError:
    """The error that an answer of the API stands for: sentence, wrong fields, and what would have fitted."""
    try:
        problem: dict[str, Any] = json.loads(body)
        parts = [f"{problem['detail']} ({problem['code']})"]
    except (ValueError, KeyError, TypeError):
        return CliError(f"the API answered {status} without saying why", _CODES.get(status, ERROR))
    fields = [f"{item['pointer']}: {item['detail']}" for item in problem.get("errors", [])]
    if fields:
        parts = [f"{'; '.join(fields)} ({problem['code']})"]
    remedies = [item["sentence"].rstrip(".") for item in problem.get("remedies", [])]
    if remedies:
        parts.append("It would fit with: " + "; or ".join(remedies) + ".")
    if problem.get("operation_id"):
        parts.append(f"See: cenote operation show {problem['operation_id']}")
    return CliError(" ".join(parts), _CODES.get(status, ERROR))
