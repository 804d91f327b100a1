"""What every command has: the options that all share, a client, an output format, and how to wait."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cloud.cli import config, output, progress
from cloud.cli.client import Client
from cloud.cli.errors import USAGE, CliError
from cloud.cli.output import Columns, Row

Function = Callable[..., None]


@dataclass(slots=True)
class Session:
    """One run of one command."""

    context: config.Context
    as_operator: bool
    output: str
    debug: bool
    wait: bool
    timeout: float
    yes: bool
    idempotency_key: str | None
    _client: Client | None = None

    @property
    def client(self) -> Client:
        """The API as the chosen identity; made when first needed."""
        if self._client is None:
            token = self.context.operator_token if self.as_operator else self.context.token
            self._client = Client(
                url=self.context.url, token=token, debug=self.debug, idempotency_key=self.idempotency_key
            )
        return self._client

    def rows(self, items: Sequence[Row], columns: Columns) -> None:
        output.rows(items, columns, self.output)

    def one(self, item: Row) -> None:
        output.one(item, self.output)

    def say(self, text: str) -> None:
        """A remark for people: on stderr, so that data stays data."""
        sys.stderr.write(text + "\n")

    def confirm(self, question: str) -> None:
        """Ask before something is lost. Raises CliError for no, and where nobody can be asked."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise CliError(f"{question} Say --yes.", USAGE)
        if not typer.confirm(question, err=True):
            raise CliError("nothing was done")

    def finish(self, operations: Sequence[dict[str, Any]]) -> None:
        """Wait for operations, if this run waits. Raises CliError for one that failed or was cancelled, or for time."""
        if self.wait and operations:
            progress.wait(self.client, operations, timeout=self.timeout)


_SHARED: dict[str, Any] = {
    "output_format": Annotated[
        str, typer.Option("-o", "--output", help="table, json, yaml, name, or columns=NAME,NAME", show_default="table")
    ],
    "context_name": Annotated[str | None, typer.Option("--context", help="Which cloud, by the name given at login")],
    "as_operator": Annotated[bool, typer.Option("--as-operator", help="Speak with the operator's token")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show each request as a curl command")],
}
_WAITING: dict[str, Any] = {
    "wait": Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of the operation")],
    "timeout": Annotated[float, typer.Option("--timeout", help="Seconds to wait at most", min=0)],
}
_KEYED: dict[str, Any] = {
    "idempotency_key": Annotated[
        str | None, typer.Option("--idempotency-key", help="With the same key again nothing is done twice")
    ]
}
_ASKING: dict[str, Any] = {"yes": Annotated[bool, typer.Option("-y", "--yes", help="Do not ask")]}
_DEFAULTS: dict[str, Any] = {
    "output_format": "table",
    "context_name": None,
    "as_operator": False,
    "debug": False,
    "wait": True,
    "timeout": 300.0,
    "idempotency_key": None,
    "yes": False,
}


def command(
    app: typer.Typer,
    name: str,
    *,
    slow: bool = False,
    keyed: bool = False,
    asks: bool = False,
    offline: bool = False,
    **settings: Any,
) -> Callable[[Function], Function]:
    """Register `function(session, ...)` as a command, with the shared options added to its own.

    `slow`: it may wait for operations. `keyed`: it sends one POST. `asks`: before it deletes. `offline`: it needs no
    cloud. The options stand on each command, not only on the program, since that is where people type them.
    """
    extra = {**_SHARED, **(_WAITING if slow else {}), **(_KEYED if keyed else {}), **(_ASKING if asks else {})}

    def wrap(function: Function) -> Function:
        hints = typing.get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name != "session"
        ]

        @functools.wraps(function)
        def run(**values: Any) -> None:
            shared = {**_DEFAULTS, **{key: values.pop(key) for key in extra}}
            try:
                function(_session(shared, offline=offline), **values)
            except CliError as error:
                sys.stderr.write(f"cenote: {error.line}\n")
                raise typer.Exit(error.exit_code)

        added = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[key], annotation=annotation)
            for key, annotation in extra.items()
        ]
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*keyword, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*keyword, *added]}
        app.command(name, **settings)(run)
        return function

    return wrap


def _session(shared: dict[str, Any], *, offline: bool) -> Session:
    context = config.Context() if offline else config.chosen(shared["context_name"])
    as_operator = shared["as_operator"] or os.environ.get("CENOTE_AS_OPERATOR") == "1"
    return Session(
        context=context,
        as_operator=as_operator,
        output=output.check_format(shared["output_format"]),
        debug=shared["debug"],
        wait=shared["wait"],
        timeout=shared["timeout"],
        yes=shared["yes"],
        idempotency_key=shared["idempotency_key"],
    )
