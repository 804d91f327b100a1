"""cenote group ..."""

from __future__ import annotations

from typing import Annotated

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.session import Session, command

app = typer.Typer(help="Instances kept apart or together", no_args_is_help=True)
COLUMNS = {
    "name": "name",
    "rule": "rule",
    "max_per_domain": "max_per_domain",
    "instances": "instances",
    "age": "created_at",
}

Name = Annotated[str, typer.Argument(help="Name or id")]
Tenant = Annotated[str | None, typer.Option(help="Another tenant than the token's own")]


@command(app, "list")
def list_groups(session: Session, tenant: Tenant = None) -> None:
    """The tenant's groups."""
    session.rows(list(session.client.pages("groups", tenant=tenant)), COLUMNS)


@command(app, "show")
def show_group(session: Session, name: Name, tenant: Tenant = None) -> None:
    """One group."""
    session.one(session.client.get("groups/" + quoted(name), tenant=tenant))


@command(app, "create", keyed=True)
def create_group(
    session: Session,
    name: Annotated[str, typer.Argument()],
    rule: Annotated[str, typer.Argument(help="anti_affinity, soft_anti_affinity, soft_affinity or affinity")],
    max_per_domain: Annotated[int | None, typer.Option(help="Members in one failure domain at most", min=1)] = None,
    tenant: Tenant = None,
) -> None:
    """Make a group; instances name it when they are made."""
    optional = {"max_per_domain": max_per_domain, "tenant": tenant}
    body = {"name": name, "rule": rule, **{key: value for key, value in optional.items() if value is not None}}
    session.rows([session.client.post("groups", body)], COLUMNS)


@command(app, "delete", asks=True)
def delete_group(session: Session, name: Name, tenant: Tenant = None) -> None:
    """Forget a group that no instance is in."""
    session.confirm(f"Delete the group {name}?")
    session.client.delete("groups/" + quoted(name), tenant=tenant)
    session.say(f"deleted {name}")
