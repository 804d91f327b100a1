"""Data on stdout, as a table for people or JSON, YAML, names, chosen columns for scripts."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloud.cli.errors import USAGE, CliError

FORMATS = ("table", "json", "yaml", "name")
_COLOURS = {
    "running": "green", "succeeded": "green", "enabled": "green", "up": "green", "active": "green", "placed": "green",
    "building": "yellow", "starting": "yellow", "stopping": "yellow", "rebooting": "yellow", "migrating": "yellow", "moving": "yellow",
    "resizing": "yellow", "deleting": "yellow", "pending": "yellow", "unwinding": "yellow", "suspect": "yellow",
    "enrolling": "yellow", "draining": "yellow",
    "error": "red", "failed": "red", "stuck": "red", "down": "red", "fenced": "red", "refused": "red", "crashed": "red",
    "stopped": "dim", "disabled": "dim", "cancelled": "dim", "unknown": "magenta",
}  # fmt: skip
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

Row = Mapping[str, Any]
# heading -> where in the row; dots lead inwards
Columns = Mapping[str, str]


def check_format(text: str) -> str:
    """A known format, or `columns=a,b.c`. Raises CliError."""
    if text in FORMATS or (text.startswith("columns=") and text.removeprefix("columns=").strip(",")):
        return text
    raise CliError(f"-o takes {', '.join(FORMATS)} or columns=NAME,NAME; not {text}", USAGE)


def rows(items: Sequence[Row], columns: Columns, output: str) -> None:
    """Print a list."""
    if output == "json":
        _write(json.dumps(items, indent=2, ensure_ascii=False))
    elif output == "yaml":
        _write(yaml.safe_dump(list(items), sort_keys=False, allow_unicode=True).rstrip("\n"))
    elif output == "name":
        for item in items:
            _write(str(item.get("name") or item.get("username") or item.get("id")))
    else:
        if output.startswith("columns="):
            columns = {name: name for name in output.removeprefix("columns=").split(",") if name}
        _table(items, columns)


def one(item: Row, output: str) -> None:
    """Print one object."""
    if output == "json":
        _write(json.dumps(item, indent=2, ensure_ascii=False))
    elif output == "yaml":
        _write(yaml.safe_dump(dict(item), sort_keys=False, allow_unicode=True).rstrip("\n"))
    elif output == "table":
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in item.items():
            table.add_row(name.replace("_", " "), _cell(value))
        _print(table)
    else:
        rows([item], {}, output)


def _print(table: Table) -> None:
    """A terminal's width and colours for people; for a pipe neither, so that nothing is cut."""
    if sys.stdout.isatty():
        plain = bool(os.environ.get("NO_COLOR"))
        Console(highlight=False, no_color=plain, color_system=None if plain else "auto").print(table)
        return
    console = Console(highlight=False, width=10_000, color_system=None, file=io.StringIO())
    console.print(table)
    for line in console.file.getvalue().splitlines():  # type: ignore[attr-defined]
        _write(line.rstrip())


def at(row: Row, path: str) -> Any:
    """The value at `flavor.name`, or at `addresses.0.address`; None where there is nothing. `a/b`: one of the other."""
    if "/" in path:
        return "/".join(str(at(row, part)) for part in path.split("/"))
    value: Any = row
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def safe(text: str) -> str:
    """Text of a guest for a terminal: without the control characters that could command it."""
    return "".join(char for char in text if char in "\n\t" or (char.isprintable() or char == " "))


def _table(items: Sequence[Row], columns: Columns) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(heading.upper().replace("_", " "), no_wrap=True)
    for item in items:
        table.add_row(*(_cell(at(item, path)) for path in columns.values()))
    _print(table)


def _cell(value: Any) -> Text:
    if value is None or value in ("", [], {}):
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, str) and _TIME.fullmatch(value):
        return Text(_when(value))
    if isinstance(value, Mapping):
        if set(value) == {"id", "name"}:
            return Text(safe(str(value["name"])))
        return Text(", ".join(f"{key}={_cell(inner).plain}" for key, inner in value.items()))
    if isinstance(value, list):
        return Text("\n".join(_cell(inner).plain for inner in value) if _long(value) else ", ".join(map(_plain, value)))
    text = safe(str(value))
    return Text(text, style=_COLOURS.get(text, ""))


def _long(value: list[Any]) -> bool:
    return any(isinstance(inner, Mapping) for inner in value)


def _plain(value: Any) -> str:
    return _cell(value).plain


def _when(text: str) -> str:
    """A time as its age when it is young, else the date."""
    moment = datetime.fromisoformat(text)
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    for limit, unit, size in ((60, "s", 1), (3600, "min", 60), (86_400, "h", 3600), (7 * 86_400, "d", 86_400)):
        if 0 <= seconds < limit:
            return f"{seconds // size} {unit} ago"
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
