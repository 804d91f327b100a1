"""Waiting for operations, with a bar on stderr that names the step in hand."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cloud.cli.client import Client
from cloud.cli.errors import ERROR, TIMEOUT, CliError

_ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "stuck"})


def wait(client: Client, operations: Sequence[dict[str, Any]], *, timeout: float) -> list[dict[str, Any]]:
    """Return the operations as they ended, all succeeded. Raises CliError for another end, or when time is up."""
    until = time.monotonic() + timeout
    ended = []
    # Someone who watches gets news every second; nobody else is woken before the end.
    watched = sys.stderr.isatty()
    with _bar(watched) as bar:
        tasks = {item["id"]: bar.add_task(_title(item), total=100, step="") for item in operations}
        for item in operations:
            ended.append(_follow(client, item, until, bar, tasks[item["id"]], patience=1 if watched else 20))
    failed = [item for item in ended if item["state"] != "succeeded"]
    if failed:
        raise CliError("; ".join(_failure(item) for item in failed), ERROR)
    return ended


def _follow(
    client: Client, operation: dict[str, Any], until: float, bar: Progress, task: Any, *, patience: int
) -> dict[str, Any]:
    while True:
        bar.update(task, completed=operation["progress"], step=_step(operation))
        if operation["state"] in _ENDED:
            return operation
        left = until - time.monotonic()
        if left <= 0:
            raise CliError(
                f"{_title(operation)} has not ended yet; it goes on. See: cenote operation wait {operation['id']}",
                TIMEOUT,
            )
        operation = client.get(f"operations/{operation['id']}", wait=max(1, min(patience, int(left))))


def _bar(watched: bool) -> Progress:
    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not watched)


def _title(operation: dict[str, Any]) -> str:
    return f"{operation['kind'].replace('_', ' ')} {operation['target']['name']}"


def _step(operation: dict[str, Any]) -> str:
    running = [step["name"] for step in operation["steps"] if step["state"] == "running"]
    return str(running[0]).replace("_", " ") if running else str(operation["state"])


def _failure(operation: dict[str, Any]) -> str:
    error = operation["error"] or {"code": operation["state"], "message": f"it was {operation['state']}"}
    return f"{_title(operation)}: {error['message']} ({error['code']})"
