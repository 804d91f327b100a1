"""cenote grant ..., cenote alarm ..."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.session import Session, command

app = typer.Typer(help="What tenants are promised in a pool", no_args_is_help=True)
alarm_app = typer.Typer(help="What cannot be kept", no_args_is_help=True)
COLUMNS = {
    "tenant": "tenant",
    "pool": "pool",
    "units": "units",
    "used": "used_units",
    "unit": "unit",
    "expandable": "expandable",
    "shares": "shares",
    "limits": "limits",
    "id": "id",
}
ALARM_COLUMNS = {"raised": "raised_at", "kind": "kind", "message": "message", "cleared": "cleared_at"}

Tenant = Annotated[str, typer.Argument(help="Id or name")]
Pool = Annotated[str, typer.Option("--pool", "-p", help="Id or name")]
Units = Annotated[int | None, typer.Option(help="Reservation: how many guests of the unit can be placed at any time")]
Expandable = Annotated[bool | None, typer.Option(help="May draw on what the grant above has left")]
Shares = Annotated[int | None, typer.Option(help="Weight for CPU against other tenants; 100 is normal")]
Limit = Annotated[list[str] | None, typer.Option(help="vcpus=N, memory_mib=N or disk_gib=N; N none: no limit")]


@command(app, "list")
def list_grants(
    session: Session,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only")] = None,
    pool: Annotated[str | None, typer.Option(help="In this pool only")] = None,
) -> None:
    """Grants of the tenant and of all below it."""
    found = list(session.client.pages("grants", tenant=tenant, pool=pool))
    if session.output in ("json", "yaml"):
        session.rows(found, COLUMNS)
    else:
        session.rows([_line(grant) for grant in found], COLUMNS)


@command(app, "create", keyed=True)
def create_grant(
    session: Session,
    tenant: Tenant,
    pool: Pool,
    units: Units = None,
    unit: Annotated[str | None, typer.Option(help="Flavor that the promise must be able to place")] = None,
    expandable: Expandable = None,
    shares: Shares = None,
    limit: Limit = None,
) -> None:
    """Promise a tenant room in a pool, out of the grant above it, or out of the pool (operators)."""
    body = {"tenant": tenant, "pool": pool, **_terms(units, expandable, shares, limit)}
    if unit is not None:
        body["unit"] = unit
    session.one(session.client.post("grants", body))


@command(app, "set")
def set_grant(
    session: Session,
    tenant: Tenant,
    pool: Pool,
    units: Units = None,
    expandable: Expandable = None,
    shares: Shares = None,
    limit: Limit = None,
) -> None:
    """Change a grant; what is not told stays."""
    grant = _find(session, tenant, pool)
    session.one(session.client.patch("grants/" + quoted(grant["id"]), _terms(units, expandable, shares, limit)))


@command(app, "delete", asks=True)
def delete_grant(session: Session, tenant: Tenant, pool: Pool) -> None:
    """Take a promise back; guests go on, unreserved."""
    grant = _find(session, tenant, pool)
    session.confirm(f"Take back {grant['units']} units of {grant['tenant']['name']} in {grant['pool']['name']}?")
    session.client.delete("grants/" + quoted(grant["id"]))
    session.say(f"deleted the grant of {grant['tenant']['name']} in {grant['pool']['name']}")


@command(alarm_app, "list")
def list_alarms(
    session: Session, history: Annotated[bool, typer.Option(help="Those that are over as well")] = False
) -> None:
    """What an operator has to know until it is mended."""
    session.rows(list(session.client.pages("alarms", history="true" if history else None)), ALARM_COLUMNS)


def _find(session: Session, tenant: str, pool: str) -> dict[str, Any]:
    found = list(session.client.pages("grants", tenant=tenant, pool=pool))
    if not found:
        raise typer.BadParameter(f"{tenant} has no grant in the pool {pool}.")
    grant: dict[str, Any] = found[0]
    return grant


def _terms(units: int | None, expandable: bool | None, shares: int | None, limits: list[str] | None) -> dict[str, Any]:
    terms: dict[str, Any] = {"units": units, "expandable": expandable}
    if shares is not None:
        terms["shares"] = {"vcpus": shares}
    if limits:
        terms["limits"] = dict(_limit(text) for text in limits)
    return {name: value for name, value in terms.items() if value is not None}


def _limit(text: str) -> tuple[str, int | None]:
    name, _, amount = text.partition("=")
    if amount != "none" and not amount.isdecimal():
        raise typer.BadParameter(f"{text}: write for example vcpus=16 or vcpus=none.")
    return name, None if amount == "none" else int(amount)


def _line(grant: dict[str, Any]) -> dict[str, Any]:
    limits = [
        f"{row['used']}/{row['limit']} {row['resource']}" + (f" ({row['over']} over)" if row["over"] else "")
        for row in grant["limits"]
        if row["limit"] is not None
    ]
    return {
        **grant,
        "tenant": grant["tenant"]["name"],
        "pool": grant["pool"]["name"],
        "unit": grant["unit"]["name"],
        "shares": grant["shares"]["vcpus"],
        "limits": ", ".join(limits),
    }
