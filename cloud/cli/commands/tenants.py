"""cenote tenant ..., cenote quota ..."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.errors import USAGE, CliError
from cloud.cli.session import Session, command

app = typer.Typer(help="Who owns and pays", no_args_is_help=True)
quota_app = typer.Typer(help="What a tenant may use", no_args_is_help=True)
COLUMNS = {"name": "name", "state": "state", "id": "id", "parent": "parent_id", "age": "created_at"}
QUOTA_COLUMNS = {"resource": "resource", "used": "used", "limit": "limit", "over": "over", "available": "available"}

Name = Annotated[str, typer.Argument(help="Name or id")]
Tenant = Annotated[str | None, typer.Option(help="Another tenant than the token's own")]
Limits = Annotated[list[str], typer.Argument(help="RESOURCE=NUMBER, or RESOURCE=none")]


@command(app, "list")
def list_tenants(session: Session) -> None:
    """The tenants that the token sees."""
    session.rows(list(session.client.pages("tenants")), COLUMNS)


@command(app, "show")
def show_tenant(session: Session, name: Name) -> None:
    """One tenant."""
    session.one(session.client.get("tenants/" + quoted(name)))


@command(app, "create", keyed=True)
def create_tenant(
    session: Session,
    name: Annotated[str, typer.Argument()],
    parent: Annotated[str | None, typer.Option(help="Name or id; the token's own tenant unless told")] = None,
    owner: Annotated[str | None, typer.Option(help="User who owns it")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="RESOURCE=NUMBER; may be repeated")] = None,
) -> None:
    """Make a tenant."""
    body: dict[str, Any] = {"name": name}
    body |= {key: value for key, value in (("parent", parent), ("owner", owner)) if value}
    if limit:
        body["limits"] = _limits(limit)
    session.rows([session.client.post("tenants", body)], COLUMNS)


@command(app, "move", keyed=True, asks=True)
def move_tenant(
    session: Session,
    name: Name,
    to: Annotated[str | None, typer.Option(help="Name or id of the new parent")] = None,
    top: Annotated[bool, typer.Option("--top", help="Make it a top tenant; operators only")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would happen, and do nothing")] = False,
) -> None:
    """Put a tenant, with all below it, under another one."""
    if (to is None) != top:
        raise CliError("say either --to TENANT or --top", USAGE)
    if not dry_run:
        session.confirm(f"Move the tenant {name} with all below it? Roles that it inherits change at once.")
    query = {"dry_run": "true"} if dry_run else {}
    move = session.client.post(f"tenants/{quoted(name)}/actions/move", {"parent": to}, **query)
    session.one(move)


@command(app, "delete", asks=True, slow=True)
def delete_tenant(
    session: Session,
    name: Name,
    cascade: Annotated[bool, typer.Option("--cascade", help="With all it holds: guests, keys, tenants below")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what --cascade would delete, and do nothing")
    ] = False,
) -> None:
    """Delete a tenant that holds nothing any more, or with --cascade one with all that it holds."""
    address = "tenants/" + quoted(name)
    if dry_run:
        session.one(session.client.delete(address, dry_run="true"))
        return
    if not cascade:
        session.confirm(f"Delete the tenant {name} with its members and tokens?")
        session.client.delete(address)
        session.say(f"deleted {name}")
        return
    plan = session.client.delete(address, dry_run="true")
    held = ", ".join(f"{count} {noun}" for noun, count in plan["counts"].items() if count)
    session.confirm(f"Delete the tenant {name} with all it holds ({held})?")
    accepted = session.client.delete(address, cascade="true", fingerprint=plan["fingerprint"])
    session.finish([accepted["operation"]])
    session.say(f"deleted {name}" if session.wait else f"deleting {name}")


@command(quota_app, "show")
def show_quota(session: Session, tenant: Tenant = None) -> None:
    """Use and limits."""
    session.rows(session.client.get("quotas", tenant=tenant)["items"], QUOTA_COLUMNS)


@command(quota_app, "set")
def set_quota(session: Session, limits: Limits, tenant: Tenant = None) -> None:
    """Set limits; decided by the tenant above, a top tenant's by operators."""
    session.rows(session.client.patch("quotas", {"limits": _limits(limits)}, tenant=tenant)["items"], QUOTA_COLUMNS)


def _limits(texts: list[str]) -> dict[str, int | None]:
    limits: dict[str, int | None] = {}
    for text in texts:
        resource, _, number = text.partition("=")
        if not (number.isascii() and number.isdecimal()) and number != "none":
            raise CliError(f"a limit is RESOURCE=NUMBER or RESOURCE=none; not {text}", USAGE)
        limits[resource] = None if number == "none" else int(number)
    return limits
