"""cenote login, cenote whoami, cenote context ..."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated

import typer

from cloud.cli import config
from cloud.cli.client import Client
from cloud.cli.errors import NOT_FOUND, CliError
from cloud.cli.session import Session, command

app = typer.Typer(help="Clouds and identities that this machine knows", no_args_is_help=True)
COLUMNS = {"name": "name", "current": "current", "url": "url", "operator": "operator"}

Name = Annotated[str, typer.Argument(help="As given at login")]


@command(app, "list", offline=True)
def list_contexts(session: Session) -> None:
    """What `login` has stored."""
    current, contexts = config.load()
    session.rows(
        [
            {"name": name, "current": name == current, "url": item.url, "operator": bool(item.operator_token)}
            for name, item in sorted(contexts.items())
        ],
        COLUMNS,
    )


@command(app, "use", offline=True)
def use_context(session: Session, name: Name) -> None:
    """Take this one from now on."""
    _, contexts = config.load()
    _known(name, contexts)
    config.save(name, contexts)
    session.say(f"now using {name}")


@command(app, "delete", offline=True, asks=True)
def delete_context(session: Session, name: Name) -> None:
    """Forget it. The token stays valid: revoke it where that is wanted."""
    current, contexts = config.load()
    _known(name, contexts)
    session.confirm(f"Forget {name}?")
    del contexts[name]
    config.save("" if current == name else current, contexts)


def register(root: typer.Typer) -> None:
    """Add the commands that have no noun."""
    command(root, "login", offline=True)(login)
    command(root, "whoami")(whoami)


def login(
    session: Session,
    url: Annotated[str | None, typer.Option(help="Where the cloud is; CENOTE_URL unless told")] = None,
    name: Annotated[str, typer.Option(help="What to call it here")] = "default",
    operator: Annotated[bool, typer.Option("--operator", help="Store an operator's token as well")] = False,
) -> None:
    """Store where a cloud is and a token for it, in a file that only you can read.

    Tokens come from CENOTE_TOKEN and CENOTE_OPERATOR_TOKEN, else from the keyboard or from standard input, one a line.
    """
    address = url or os.environ.get("CENOTE_URL") or typer.prompt("URL", err=True)
    token = os.environ.get("CENOTE_TOKEN") or _secret("Token: ")
    operator_token = os.environ.get("CENOTE_OPERATOR_TOKEN", "")
    if operator and not operator_token:
        operator_token = _secret("Operator's token: ")
    me = Client(url=address, token=token, debug=session.debug).get("me")
    if operator_token:
        Client(url=address, token=operator_token, debug=session.debug).get("me")
    _, contexts = config.load()
    contexts[name] = config.Context(
        url=address,
        token=token,
        operator_token=operator_token,
        ssh_key=os.environ.get("CENOTE_SSH_KEY", ""),
        ssh_proxy=os.environ.get("CENOTE_SSH_PROXY", ""),
    )
    config.save(name, contexts)
    where = f"tenant {me['tenant']['name']} ({me['tenant']['role']})" if me["tenant"] else "the whole cloud"
    session.say(f"logged in as {me['username']}, {where}; context {name}")


def whoami(session: Session) -> None:
    """The token's user, tenant and role."""
    session.one(session.client.get("me"))


def _secret(prompt: str) -> str:
    text = getpass.getpass(prompt) if sys.stdin.isatty() else sys.stdin.readline()
    return text.strip()


def _known(name: str, contexts: dict[str, config.Context]) -> None:
    if name not in contexts:
        raise CliError(f"there is no context {name}", NOT_FOUND)
