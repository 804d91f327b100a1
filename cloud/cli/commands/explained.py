"""What `cenote instance explain` and `cenote decision show` say."""

from __future__ import annotations

import sys
from typing import Any

from cloud.cli.session import Session

_QUOTA = {"tenant": "tenant.name", "resource": "resource", "limit": "limit", "used": "used", "asked": "asked"}
_ROOM = {
    "vcpus": "free.vcpus",
    "after": "margins.vcpus",
    "mib": "free.memory_mib",
    "after ": "margins.memory_mib",
    "gib": "free.disk_gib",
    "after  ": "margins.disk_gib",
}
_REFUSED = {"host": "host_name", "refused by": "filter", "also": "also", **_ROOM}
_HOST = {"host": "host_name", "place": "place", "score": "score", "refused by": "filter", "also": "also", **_ROOM}


def show_decision(session: Session, decision: dict[str, Any], *, host: str | None) -> None:
    """Print a decision, or what it found of one host."""
    if host is not None:
        found = session.client.get(f"decisions/{decision['id']}/hosts", host=host)
        session.rows(found["items"], _HOST)
    elif session.output in ("json", "yaml"):
        session.one(decision)
    else:
        _tell(session, decision)


def _tell(session: Session, decision: dict[str, Any]) -> None:
    _write(_sentences(decision))
    if decision["quota"]:
        _write([""])
        session.rows(decision["quota"], {**_QUOTA, "missing": "missing"})
    if decision.get("candidates"):
        weighers = {name: f"contributions.{name}" for name in decision["candidates"][0]["contributions"]}
        _write(["", "Could take it, best first (after: what would be left):"])
        rows = [_rounded(candidate) for candidate in decision["candidates"]]
        session.rows(rows, {"host": "host_name", "score": "score", **weighers, **_ROOM})
    if decision.get("refusals"):
        _write(["", "Could not, those that lack least (after: what would be left):"])
        session.rows(decision["refusals"], _REFUSED)


def _rounded(candidate: dict[str, Any]) -> dict[str, Any]:
    """With scores as people compare them; json has them in full."""
    points = {name: f"{value:.3f}" for name, value in candidate["contributions"].items()}
    return {**candidate, "score": f"{candidate['score']:.3f}", "contributions": points}


def _sentences(decision: dict[str, Any]) -> list[str]:
    request = decision["request"]
    asked = ", ".join(f"{value} {key}" for key, value in request.get("resources", {}).items())
    times = f"{request['count']} times " if request.get("count", 1) > 1 else ""
    lines = [f"{decision['outcome']}: {request.get('name', '')} ({request.get('kind')}; {times}{asked})"]
    lines += decision["summary"]
    if decision.get("host"):
        lines.append(f"It is on {decision['host']['name']}.")
    if decision.get("choice"):
        lines.append(decision["choice"])
    if decision.get("passed_over"):
        lines.append(f"{decision['passed_over']} better hosts filled up before the claim.")
    lines += [f"It would fit with: {remedy['sentence']}" for remedy in decision["remedies"]]
    return lines


def _write(lines: list[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
