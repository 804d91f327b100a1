"""cenote member ..., cenote token ..., cenote user ..."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.session import Session, command

member_app = typer.Typer(help="Who belongs to a tenant", no_args_is_help=True)
token_app = typer.Typer(help="Keys for scripts", no_args_is_help=True)
user_app = typer.Typer(help="People and service accounts; for operators", no_args_is_help=True)
MEMBER_COLUMNS = {"name": "username", "role": "role", "since": "created_at"}
TOKEN_COLUMNS = {
    "id": "id",
    "name": "name",
    "user": "username",
    "scope": "scope",
    "expires": "expires_at",
    "used": "last_used_at",
}
USER_COLUMNS = {"name": "username", "operator": "is_operator", "active": "is_active", "email": "email"}

Tenant = Annotated[str | None, typer.Option(help="Another tenant than the token's own")]


@command(member_app, "list")
def list_members(session: Session, tenant: Tenant = None) -> None:
    """The tenant's own members."""
    session.rows(list(session.client.pages("members", tenant=tenant)), MEMBER_COLUMNS)


@command(member_app, "add", keyed=True)
def add_member(
    session: Session,
    user: Annotated[str, typer.Argument(help="User name or id")],
    role: Annotated[str, typer.Option(help="owner, admin, operator or viewer")] = "viewer",
    tenant: Tenant = None,
) -> None:
    """Give a user a role."""
    body = {"user": user, "role": role, **({"tenant": tenant} if tenant else {})}
    session.rows([session.client.post("members", body)], MEMBER_COLUMNS)


@command(member_app, "remove", asks=True)
def remove_member(session: Session, user: Annotated[str, typer.Argument()], tenant: Tenant = None) -> None:
    """Take a user's role away, and the tokens that lean on it."""
    session.confirm(f"Remove {user}?")
    session.client.delete("members/" + quoted(user), tenant=tenant)
    session.say(f"removed {user}")


@command(token_app, "list")
def list_tokens(session: Session, tenant: Tenant = None) -> None:
    """Your tokens; everybody's for administrators."""
    session.rows(list(session.client.pages("tokens", tenant=tenant)), TOKEN_COLUMNS)


@command(token_app, "create", keyed=True)
def create_token(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it is for")],
    scope: Annotated[str, typer.Option(help="full or read")] = "full",
    days: Annotated[int | None, typer.Option(help="How long it lives; for ever unless told", min=1)] = None,
    tenant: Tenant = None,
) -> None:
    """Make a token; its text is shown once."""
    body: dict[str, Any] = {"name": name, "scope": scope}
    if days is not None:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    if tenant:
        body["tenant"] = tenant
    session.one(session.client.post("tokens", body))


@command(token_app, "revoke", asks=True)
def revoke_token(session: Session, token: Annotated[str, typer.Argument(help="Its id")], tenant: Tenant = None) -> None:
    """End a token."""
    session.confirm(f"Revoke the token {token}?")
    session.client.delete("tokens/" + quoted(token), tenant=tenant)
    session.say(f"revoked {token}")


@command(user_app, "list")
def list_users(session: Session) -> None:
    """All users."""
    session.rows(list(session.client.pages("users")), USER_COLUMNS)


@command(user_app, "create", keyed=True)
def create_user(
    session: Session,
    username: Annotated[str, typer.Argument()],
    email: Annotated[str, typer.Option()] = "",
    operator: Annotated[bool, typer.Option("--operator", help="One of the cloud's operators")] = False,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for a password, or read it from standard input")
    ] = False,
) -> None:
    """Make a user; without a password a service account."""
    body: dict[str, Any] = {"username": username, "email": email, "is_operator": operator}
    if password:
        # Never as an argument: every user of the machine can read those.
        body["password"] = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    session.rows([session.client.post("users", body)], USER_COLUMNS)
