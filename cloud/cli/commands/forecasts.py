"""What `cenote instance create --dry-run` says."""

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


def show_forecast(session: Session, forecast: dict[str, Any]) -> None:
    """Print the forecast. Raises CliError where it is a refusal, as the create itself would."""
    if session.output in ("json", "yaml"):
        session.one(forecast)
    else:
        sys.stdout.write("\n".join(_sentences(forecast)) + "\n\n")
        session.rows(forecast["quota"], _QUOTA_COLUMNS)
    if not forecast["fits"]:
        raise CliError("the create would be refused: " + ", ".join(forecast["refused_by"]), CONFLICT)


def _sentences(forecast: dict[str, Any]) -> list[str]:
    room = f"{forecast['how_many']}{' or more' if forecast['how_many'] == 100 else ''}"
    lines = [f"{'Fits' if forecast['fits'] else 'Refused'}: {forecast['count']} asked, {room} would be taken now."]
    lines += forecast["summary"]
    if forecast["price"]:
        lines.append(f"It costs {forecast['price']['per_hour']} {forecast['price']['currency']} an hour.")
    lines += [f"{place['instance']} would go to {place['name']}." for place in forecast.get("hosts", [])]
    lines += [f"It would fit with: {remedy['sentence']}" for remedy in forecast["remedies"]]
    return lines
