"""cenote migration ..., cenote instance migrate, cenote instance move"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.errors import CONFLICT, CliError
from cloud.cli.session import Session, command

app = typer.Typer(help="Guests on their way from host to host; for operators", no_args_is_help=True)
COLUMNS = {
    "id": "id",
    "instance": "instance.name",
    "from": "source.name",
    "to": "destination.name",
    "way": "way",
    "state": "state",
    "percent": "percent",
    "seconds": "status.elapsed_seconds",
    "stop_ms": "status.downtime_ms",
    "error": "error.code",
    "age": "created_at",
}
CHECK_COLUMNS = {"from": "source.name", "to": "destination.name", "obstacles": "obstacles"}

Name = Annotated[str, typer.Argument(help="Name or id of the instance")]


@command(app, "list")
def list_migrations(
    session: Session,
    host: Annotated[str | None, typer.Option(help="From or to this host")] = None,
    state: Annotated[str | None, typer.Option(help="claimed, preparing, running, completed, failed, aborted")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Those that have not ended")] = False,
    limit: Annotated[int, typer.Option(help="The newest of them", min=1)] = 50,
) -> None:
    """Migrations, newest first."""
    found = session.client.pages("migrations", most=limit, host=host, state=state, open="true" if open_only else None)
    session.rows([_with_percent(item) for item in found], COLUMNS)


@command(app, "show")
def show_migration(session: Session, migration: Annotated[str, typer.Argument(help="Its id")]) -> None:
    """One migration, with how far it is."""
    session.one(session.client.get("migrations/" + quoted(migration)))


def migrate(
    session: Session,
    name: Name,
    to: Annotated[str | None, typer.Option("--to", help="This host; else the scheduler chooses")] = None,
    reason: Annotated[str | None, typer.Option(help="Kept in the records")] = None,
    bandwidth: Annotated[int | None, typer.Option(help="MiB/s; 0: as fast as the link is", min=0)] = None,
    downtime: Annotated[int | None, typer.Option(help="ms that the guest may pause at first", min=1)] = None,
    downtime_limit: Annotated[int | None, typer.Option(help="ms that it may pause at the most", min=1)] = None,
    deadline: Annotated[int | None, typer.Option(help="seconds, after which it is given up", min=10)] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Pause it for the rest rather than give up")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing")] = False,
) -> None:
    """Move a running VM to another host while it runs; for operators. A dry run ends with 4 where it cannot be moved."""
    optional = {
        "destination": to,
        "reason": reason,
        "bandwidth_mib_s": bandwidth,
        "downtime_ms": downtime,
        "downtime_limit_ms": downtime_limit,
        "deadline_seconds": deadline,
        "at_the_end": "pause" if pause else None,
    }
    body = {key: value for key, value in optional.items() if value is not None}
    _send(session, name, "migrate", body, dry_run=dry_run)


def move(
    session: Session,
    name: Name,
    to: Annotated[str | None, typer.Option("--to", help="This host; else the scheduler chooses")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="One that runs is stopped for it and started there")] = False,
    reason: Annotated[str | None, typer.Option(help="Kept in the records")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing")] = False,
) -> None:
    """Take an instance to another host while it does not run; for operators. A dry run ends with 4 where it cannot be."""
    optional = {"destination": to, "reason": reason, "stop": stop or None}
    _send(session, name, "move", {key: value for key, value in optional.items() if value is not None}, dry_run=dry_run)


def register(instances: typer.Typer) -> None:
    """Add the verbs to the instances' commands."""
    command(instances, "migrate", slow=True, keyed=True)(migrate)
    command(instances, "move", slow=True, keyed=True)(move)


def _send(session: Session, name: str, verb: str, body: dict[str, Any], *, dry_run: bool) -> None:
    path = f"instances/{quoted(name)}/actions/{verb}"
    if dry_run:
        check = session.client.post(path, body, dry_run="true")
        session.rows([check], CHECK_COLUMNS)
        if check["obstacles"]:
            raise CliError(" ".join(item["detail"] for item in check["obstacles"]), CONFLICT)
        return
    answer = session.client.post(path, body)
    session.finish([answer["operation"]])
    newest = session.client.get("migrations", instance=answer["instance"]["id"], limit=1)["items"]
    session.rows([_with_percent(item) for item in newest], COLUMNS)


def _with_percent(item: dict[str, Any]) -> dict[str, Any]:
    status = item["status"]
    share = 100 * status["done_bytes"] // status["total_bytes"] if status and status["total_bytes"] else 0
    return item | {"percent": 100 if item["state"] == "completed" else min(share, 99)}
