"""cenote instance ..."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud.cli import output
from cloud.cli.commands.explained import show_decision
from cloud.cli.commands.forecasts import show_forecast, show_resize_plan
from cloud.cli.commands.leases import read_lease
from cloud.cli.errors import USAGE, CliError
from cloud.cli.session import Session, command

app = typer.Typer(help="VMs and containers", no_args_is_help=True)
COLUMNS = {
    "name": "name",
    "status": "status",
    "kind": "kind",
    "flavor": "flavor.name",
    "image": "image.name",
    "address": "addresses.0.address",
    "lease_ends": "lease.ends_at",
    "age": "created_at",
}
FOR_OPERATORS = {**COLUMNS, "host": "host.name", "tenant": "tenant_id"}
LEASE_COLUMNS = {"name": "name", "lease_ends": "lease.ends_at", "action": "lease.action"}
PRIORITY_COLUMNS = {"name": "name", "priority": "evacuation_priority"}

Name = Annotated[str, typer.Argument(help="Name or id")]
Force = Annotated[bool, typer.Option("--force", help="Cut the power instead of asking the guest")]


@command(app, "create", slow=True, keyed=True)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(help="Host name of the guest; with --count the beginning of it")],
    flavor: Annotated[str, typer.Option("--flavor", "-f", help="Its size")],
    image: Annotated[str, typer.Option("--image", "-i", help="What it boots")],
    pool: Annotated[str | None, typer.Option(help="Where there is more than one")] = None,
    keypair: Annotated[
        list[str] | None, typer.Option("--keypair", "-k", help="SSH key that gets in; may be repeated")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Kept apart from its instances, or with them")
    ] = None,
    user_data: Annotated[Path | None, typer.Option(help="File for cloud-init; - for standard input")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated")] = None,
    count: Annotated[int, typer.Option(help="How many, all or none", min=1)] = 1,
    lease: Annotated[
        str | None, typer.Option(help="How long it stays: 90m, 8h, 1d12h, or until a time (RFC 3339)")
    ] = None,
    lease_action: Annotated[str | None, typer.Option(help="What happens then: stop (unless told) or delete")] = None,
    kind: Annotated[str | None, typer.Option(help="vm or container, to be sure")] = None,
    tenant: Annotated[str | None, typer.Option(help="Another tenant than the token's own")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; make nothing")] = False,
) -> None:
    """Make one instance, or several at once. A dry run ends with 4 where the create would be refused."""
    body: dict[str, Any] = {"name": name, "flavor": flavor, "image": image, "count": count}
    optional = {
        "pool": pool,
        "keypairs": keypair,
        "kind": kind,
        "tenant": tenant,
        "group": group,
        "tags": _pairs(tag or []),
    }
    body |= {key: value for key, value in optional.items() if value}
    if lease is not None:
        body["lease"] = read_lease(lease, lease_action)
    elif lease_action is not None:
        raise CliError("--lease-action says what happens when a lease ends: give --lease as well", USAGE)
    if user_data is not None:
        body["user_data"] = _read(user_data)
    if dry_run:
        show_forecast(session, session.client.post("instances", body, dry_run="true"))
        return
    answer = session.client.post("instances", body)
    session.finish(answer["operations"])
    made = answer["instances"]
    if session.wait:
        made = [session.client.get(f"instances/{item['id']}") for item in made]
    _show(session, made)


@command(app, "list")
def list_instances(
    session: Session,
    state: Annotated[str | None, typer.Option(help="building, active, error, failed or deleting")] = None,
    kind: Annotated[str | None, typer.Option(help="vm or container")] = None,
    host: Annotated[str | None, typer.Option(help="On this host; for operators")] = None,
    flavor: Annotated[str | None, typer.Option(help="Of this flavor")] = None,
    search: Annotated[
        str | None, typer.Option("--search", "-s", help="Part of the name, or the beginning of an address")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone")] = None,
    limit: Annotated[int | None, typer.Option(help="The newest of them", min=1)] = None,
) -> None:
    """Instances, newest first."""
    found = session.client.pages(
        "instances", most=limit, state=state, kind=kind, host=host, flavor=flavor, search=search, tenant=tenant
    )
    session.rows(list(found), FOR_OPERATORS if session.as_operator else COLUMNS)


@command(app, "show")
def show(session: Session, name: Name) -> None:
    """All about one instance."""
    session.one(session.client.get(_path(name)))


@command(app, "start", slow=True, keyed=True)
def start(session: Session, name: Name) -> None:
    """Start it."""
    _order(session, name, "start", {})


@command(app, "stop", slow=True, keyed=True)
def stop(session: Session, name: Name, force: Force = False) -> None:
    """Ask the guest to stop; after 20 seconds its power is cut."""
    _order(session, name, "stop", {"force": force})


@command(app, "reboot", slow=True, keyed=True)
def reboot(session: Session, name: Name, force: Force = False) -> None:
    """Restart it, from its definition as it stands now."""
    _order(session, name, "reboot", {"force": force})


@command(app, "resize", slow=True, keyed=True)
def resize(
    session: Session,
    name: Name,
    flavor: Annotated[str, typer.Option("--flavor", "-f", help="Its new size")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing")] = False,
) -> None:
    """Give a stopped instance another size. A dry run ends with 4 where the resize would be refused."""
    if dry_run:
        path = f"{_path(name)}/actions/resize"
        show_resize_plan(session, session.client.post(path, {"flavor": flavor}, dry_run="true"))
        return
    _order(session, name, "resize", {"flavor": flavor})


@command(app, "prioritize", keyed=True)
def prioritize(
    session: Session, name: Name, priority: Annotated[int, typer.Argument(help="0 to 100; 50 unless told", max=100)]
) -> None:
    """Say when it comes back should its host be lost: higher ones first; for operators."""
    body = {"priority": priority}
    session.rows([session.client.post(f"{_path(name)}/actions/prioritize", body)], PRIORITY_COLUMNS)


@command(app, "lease", keyed=True)
def lease(
    session: Session,
    name: Name,
    until: Annotated[str, typer.Argument(help="90m, 8h, 1d12h, a time (RFC 3339), or none: for ever")],
    action: Annotated[str | None, typer.Option(help="stop or delete; as before unless told")] = None,
) -> None:
    """Say how long it stays, and whether it is stopped or deleted then."""
    if until == "none" and action is not None:
        raise CliError("without a lease nothing happens: leave --action out", USAGE)
    body = {"lease": None if until == "none" else read_lease(until, action)}
    session.rows([session.client.post(f"{_path(name)}/actions/lease", body)], LEASE_COLUMNS)


@command(app, "delete", slow=True, asks=True)
def delete(session: Session, names: Annotated[list[str], typer.Argument(help="Names or ids")]) -> None:
    """Delete instances with their disks."""
    # Looked up first: a wrong name in the list is told before anything is gone.
    found = [session.client.get(_path(name)) for name in names]
    session.confirm(f"Delete {', '.join(item['name'] for item in found)} with all data?")
    operations = [session.client.delete(_path(item["id"]))["operation"] for item in found]
    session.finish(operations)
    session.say(("deleted " if session.wait else "deleting ") + ", ".join(item["name"] for item in found))


@command(app, "console-log")
def console_log(session: Session, name: Name) -> None:
    """What the guest wrote to its console."""
    answer = session.client.get(_path(name) + "/console-log", wait=10)
    if session.output in ("json", "yaml"):
        session.one(answer)
        return
    # A guest's bytes may hold commands for a terminal; a file or a pipe gets them as they are.
    sys.stdout.write(output.safe(answer["text"].replace("\r\n", "\n")) if sys.stdout.isatty() else answer["text"])


@command(app, "explain")
def explain(
    session: Session,
    name: Name,
    host: Annotated[str | None, typer.Option(help="Why not this one? For operators")] = None,
) -> None:
    """Why it was placed where it is."""
    show_decision(session, session.client.get(_path(name) + "/decision"), host=host)


def _order(session: Session, name: str, verb: str, body: dict[str, Any]) -> None:
    answer = session.client.post(f"{_path(name)}/actions/{verb}", body)
    session.finish([answer["operation"]])
    _show(session, [session.client.get(_path(answer["instance"]["id"]))])


def _show(session: Session, items: list[dict[str, Any]]) -> None:
    if session.output in ("json", "yaml") and len(items) == 1:
        session.one(items[0])
    else:
        session.rows(items, FOR_OPERATORS if session.as_operator else COLUMNS)


def _path(name: str) -> str:
    return "instances/" + quoted(name)


def quoted(name: str) -> str:
    """A name or id as one segment of a path. Raises CliError for what cannot be one."""
    if not name or "/" in name or name in (".", "..") or not name.isprintable():
        raise CliError(f"{name!r} is neither a name nor an id", USAGE)
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _pairs(tags: list[str]) -> dict[str, str]:
    pairs = {}
    for tag in tags:
        key, sign, value = tag.partition("=")
        if not sign:
            raise CliError(f"a tag is KEY=VALUE; not {tag}", USAGE)
        pairs[key] = value
    return pairs


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file}: {error}", USAGE)
