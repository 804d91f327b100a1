"""What `--dry-run` of `cenote instance create` and `cenote instance resize` says."""

from __future__ import annotations

import sys
from typing import Any

from cloud.cli.errors import CONFLICT, CliError
from cloud.cli.session import Session

_QUOTA_COLUMNS = {
    "tenant": "tenant.name",
    "resource": "resource",
    "limit": "limit",
    "used": "used",
    "asked": "asked",
    "after": "after",
    "missing": "missing",
}
_SIZE_COLUMNS = {
    "size": "when",
    "flavor": "flavor",
    "vcpus": "vcpus",
    "memory_mib": "memory_mib",
    "disk_gib": "disk_gib",
    "per_hour": "per_hour",
    "currency": "currency",
}


def show_forecast(session: Session, forecast: dict[str, Any]) -> None:
    """Print the forecast. Raises CliError where it is a refusal, as the create itself would."""
    if session.output in ("json", "yaml"):
        session.one(forecast)
    else:
        sys.stdout.write("\n".join(_sentences(forecast)) + "\n\n")
        session.rows(forecast["quota"], _QUOTA_COLUMNS)
    if not forecast["fits"]:
        raise CliError("the create would be refused: " + ", ".join(forecast["refused_by"]), CONFLICT)


def show_resize_plan(session: Session, plan: dict[str, Any]) -> None:
    """Print the plan. Raises CliError where it is a refusal, as the resize itself would."""
    if session.output in ("json", "yaml"):
        session.one(plan)
    else:
        sizes = [
            {"when": when, **plan[key], "currency": plan["currency"]}
            for when, key in (("now", "before"), ("then", "after"))
        ]
        session.rows(sizes, _SIZE_COLUMNS)
        sys.stdout.write("\n".join(["", *plan["reasons"], ""]))
        if plan["quota"]:
            session.rows(plan["quota"], _QUOTA_COLUMNS)
    if not plan["fits"]:
        raise CliError("the resize would be refused: " + ", ".join(plan["refused_by"]), CONFLICT)


def _sentences(forecast: dict[str, Any]) -> list[str]:
    room = f"{forecast['how_many']}{' or more' if forecast['how_many'] == 100 else ''}"
    lines = [f"{'Fits' if forecast['fits'] else 'Refused'}: {forecast['count']} asked, {room} would be taken now."]
    lines += forecast["summary"]
    if forecast["price"]:
        lines.append(f"It costs {forecast['price']['per_hour']} {forecast['price']['currency']} an hour.")
    lines += [f"{place['instance']} would go to {place['name']}." for place in forecast.get("hosts", [])]
    lines += [f"It would fit with: {remedy['sentence']}" for remedy in forecast["remedies"]]
    return lines
