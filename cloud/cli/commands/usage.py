"""cenote usage ..., cenote price ..."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any

import typer

from cloud.cli.commands.hosts import in_vcpus
from cloud.cli.commands.instances import quoted
from cloud.cli.session import Session, command

app = typer.Typer(help="What was used, and what it costs", no_args_is_help=True)
price_app = typer.Typer(help="What an hour costs", no_args_is_help=True)
USAGE_COLUMNS = {
    "name": "name",
    "instance_hours": "instance_hours",
    "vcpu_hours": "vcpu_hours",
    "memory_gib_hours": "memory_gib_hours",
    "disk_gib_hours": "disk_gib_hours",
}
COST_COLUMNS = {
    "name": "name",
    "resource": "resource",
    "hours": "quantity",
    "per_hour": "per_hour",
    "cost": "cost",
}
SHARE_COLUMNS = {
    "pool": "pool.name",
    "shares": "shares",
    "delivered": "delivered",
    "wanted": "wanted",
    "entitled": "entitled",
}
PRICE_COLUMNS = {
    "resource": "resource",
    "flavor": "flavor",
    "pool": "pool",
    "per_hour": "per_hour",
    "currency": "currency",
    "from": "valid_from",
    "until": "valid_until",
    "id": "id",
}

Tenant = Annotated[str | None, typer.Option(help="Another tenant than the token's own")]
Since = Annotated[str | None, typer.Option("--from", help="Date or time; the first of this month unless told")]
Until = Annotated[str | None, typer.Option("--to", help="Date or time, itself left out; now unless told")]
By = Annotated[str, typer.Option("--by", help="tenant, flavor, pool, kind or instance; use also by day")]
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_GIB_HOUR = 3600 * 1024


@command(app, "show")
def show_usage(
    session: Session, tenant: Tenant = None, since: Since = None, until: Until = None, by: By = "tenant"
) -> None:
    """Hours of instances, vCPUs, memory and disk, of the tenant and all below it."""
    report = session.client.get("usage", tenant=tenant, group_by=by, **_period(since, until))
    if session.output in ("json", "yaml"):
        session.one(report)
        return
    lines = [_in_hours(group["name"], group["amounts"]) for group in report["groups"]]
    if session.output == "table":
        lines.append(_in_hours("total", report["total"]))
    session.rows(lines, USAGE_COLUMNS)


@command(app, "cost")
def show_cost(
    session: Session,
    tenant: Tenant = None,
    since: Since = None,
    until: Until = None,
    by: By = "tenant",
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV")] = False,
) -> None:
    """Use at the prices of its time, of the tenant and all below it."""
    query = {"tenant": tenant, "group_by": by, **_period(since, until)}
    if as_csv:
        sys.stdout.write(session.client.text("usage/showback", format="csv", **query))
        return
    report = session.client.get("usage/showback", **query)
    if session.output in ("json", "yaml"):
        session.one(report)
        return
    lines = [{**line, "name": line["group_name"]} for line in report["lines"]]
    if session.output == "table":
        lines.append({"name": "total", "cost": f"{report['total']} {report['currency'] or ''}".rstrip()})
    session.rows(lines, COST_COLUMNS)


@command(app, "shares")
def show_shares(session: Session, tenant: Tenant = None) -> None:
    """CPU that the tenant and all below it got of late in each pool, against what they are entitled to."""
    items = session.client.get("usage/shares", tenant=tenant)["items"]
    named = [{**in_vcpus(item), "name": item["pool"]["name"]} for item in items]
    session.rows(items if session.output in ("json", "yaml") else named, SHARE_COLUMNS)


@command(price_app, "list")
def list_prices(
    session: Session, history: Annotated[bool, typer.Option(help="Those that have ended as well")] = False
) -> None:
    """Prices that hold now or later."""
    found = session.client.pages("prices", history="true" if history else None)
    session.rows(list(found), PRICE_COLUMNS)


@command(price_app, "set", keyed=True)
def set_price(
    session: Session,
    resource: Annotated[str, typer.Argument(help="instance, vcpu, memory_gib or disk_gib")],
    per_hour: Annotated[str, typer.Argument(help="For example 0.0125")],
    currency: Annotated[str, typer.Option(help="Three letters, for example EUR")],
    flavor: Annotated[str | None, typer.Option(help="For this one only")] = None,
    pool: Annotated[str | None, typer.Option(help="For this one only")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Date or time to come; at once unless told")] = None,
) -> None:
    """Set a price; the one before ends there. For operators."""
    body: dict[str, Any] = {"resource": resource, "per_hour": per_hour, "currency": currency}
    more = {"flavor": flavor, "pool": pool, "valid_from": _moment(since)}
    body |= {name: value for name, value in more.items() if value is not None}
    session.rows([session.client.post("prices", body)], PRICE_COLUMNS)


@command(price_app, "end", asks=True)
def end_price(session: Session, price: Annotated[str, typer.Argument(help="Id")]) -> None:
    """End a price now, or withdraw one that has not begun. For operators."""
    session.confirm(f"End the price {price}?")
    session.client.delete("prices/" + quoted(price))
    session.say(f"ended {price}")


def _in_hours(name: str, amounts: dict[str, int]) -> dict[str, str]:
    return {
        "name": name,
        "instance_hours": f"{amounts['instance_seconds'] / 3600:.2f}",
        "vcpu_hours": f"{amounts['vcpu_seconds'] / 3600:.2f}",
        "memory_gib_hours": f"{amounts['memory_mib_seconds'] / _GIB_HOUR:.2f}",
        "disk_gib_hours": f"{amounts['disk_gib_seconds'] / 3600:.2f}",
    }


def _period(since: str | None, until: str | None) -> dict[str, str | None]:
    return {"from": _moment(since), "to": _moment(until)}


def _moment(text: str | None) -> str | None:
    """A date stands for its beginning, UTC."""
    return f"{text}T00:00:00Z" if text is not None and _DATE.fullmatch(text) else text
