"""cenote operation ..., cenote decision ..., cenote audit ..."""

from __future__ import annotations

from typing import Annotated

import typer

from cloud.cli.commands.explained import show_decision
from cloud.cli.commands.instances import quoted
from cloud.cli.session import Session, command

app = typer.Typer(help="What is being done, and was", no_args_is_help=True)
decision_app = typer.Typer(help="Why here, why not there", no_args_is_help=True)
audit_app = typer.Typer(help="Who changed what", no_args_is_help=True)
COLUMNS = {
    "id": "id",
    "kind": "kind",
    "target": "target.name",
    "state": "state",
    "percent": "progress",
    "error": "error.message",
    "age": "created_at",
}
DECISION_COLUMNS = {"id": "id", "outcome": "outcome", "name": "request.name", "summary": "summary", "age": "created_at"}
AUDIT_COLUMNS = {
    "at": "at",
    "who": "actor_name",
    "action": "action",
    "what": "target_type",
    "name": "target_name",
    "request": "request_id",
}

Id = Annotated[str, typer.Argument(help="Its id")]
Limit = Annotated[int, typer.Option(help="The newest of them", min=1)]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant alone")]


@command(app, "list")
def list_operations(
    session: Session,
    state: Annotated[
        str | None, typer.Option(help="pending, running, unwinding, stuck, succeeded, failed, cancelled")
    ] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Those that have not ended")] = False,
    tenant: Tenant = None,
    limit: Limit = 50,
) -> None:
    """Operations, newest first."""
    found = session.client.pages(
        "operations", most=limit, state=state, tenant=tenant, open="true" if open_only else None
    )
    session.rows(list(found), COLUMNS)


@command(app, "show")
def show_operation(session: Session, operation: Id) -> None:
    """One operation with its steps."""
    session.one(session.client.get("operations/" + quoted(operation)))


@command(app, "wait", slow=True)
def wait_operation(session: Session, operations: Annotated[list[str], typer.Argument(help="Ids")]) -> None:
    """Wait until they have ended."""
    found = [session.client.get("operations/" + quoted(item)) for item in operations]
    session.finish(found)
    session.rows([session.client.get("operations/" + item["id"]) for item in found], COLUMNS)


@command(app, "cancel", keyed=True)
def cancel_operation(session: Session, operation: Id) -> None:
    """Ask it to stop and to undo what it did."""
    session.rows([session.client.post(f"operations/{quoted(operation)}/cancel")], COLUMNS)


@command(app, "retry", keyed=True)
def retry_operation(session: Session, operation: Id) -> None:
    """Have a stuck operation try again."""
    session.rows([session.client.post(f"operations/{quoted(operation)}/retry")], COLUMNS)


@command(decision_app, "list")
def list_decisions(
    session: Session,
    outcome: Annotated[str | None, typer.Option(help="placed or refused")] = None,
    tenant: Tenant = None,
    limit: Limit = 20,
) -> None:
    """Placements and refusals, newest first."""
    session.rows(list(session.client.pages("decisions", most=limit, outcome=outcome, tenant=tenant)), DECISION_COLUMNS)


@command(decision_app, "show")
def show_one_decision(
    session: Session,
    decision: Id,
    host: Annotated[str | None, typer.Option(help="Why not this one? For operators")] = None,
) -> None:
    """One decision: in sentences, and for operators the hosts with their numbers."""
    show_decision(session, session.client.get("decisions/" + quoted(decision)), host=host)


@command(audit_app, "list")
def list_audit(
    session: Session,
    action: Annotated[str | None, typer.Option(help="For example instance.create")] = None,
    actor: Annotated[str | None, typer.Option(help="User name")] = None,
    target: Annotated[str | None, typer.Option(help="Id of what was changed")] = None,
    tenant: Tenant = None,
    limit: Limit = 50,
) -> None:
    """The audit trail, newest first."""
    found = session.client.pages("audit", most=limit, action=action, actor=actor, target=target, tenant=tenant)
    session.rows(list(found), AUDIT_COLUMNS)
