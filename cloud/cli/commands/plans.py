"""cenote plan ..., cenote host drain, cenote instance contract"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.errors import CONFLICT, ERROR, TIMEOUT, CliError
from cloud.cli.session import Session, command

app = typer.Typer(help="Moves of several guests, shown before the first begins; for operators", no_args_is_help=True)
COLUMNS = {
    "id": "id",
    "kind": "kind",
    "host": "host.name",
    "state": "state",
    "done": "done/moves",
    "in_the_way": "in_the_way",
    "reason": "reason",
    "age": "created_at",
}
STEP_COLUMNS = {
    "n": "number",
    "guest": "instance.name",
    "tenant": "tenant.name",
    "way": "way",
    "from": "source.name",
    "to": "destination.name",
    "state": "state",
    "why": "why",
}
CONTRACT_COLUMNS = {"name": "name", "disruption": "disruption", "pause_limit_ms": "pause_limit_ms"}
POLL_SECONDS = 1.0

Plan = Annotated[str, typer.Argument(help="Its id")]
Name = Annotated[str, typer.Argument(help="Name or id")]


@command(app, "list")
def list_plans(
    session: Session,
    host: Annotated[str | None, typer.Option(help="That empty this host")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Those that are being carried out")] = False,
    limit: Annotated[int, typer.Option(help="The newest of them", min=1)] = 50,
) -> None:
    """Plans, newest first."""
    found = session.client.pages("plans", most=limit, host=host, open="true" if open_only else None)
    session.rows(list(found), COLUMNS)


@command(app, "show")
def show_plan(session: Session, plan: Plan) -> None:
    """A plan with the fate of each guest, and how far it is."""
    _say(session, session.client.get("plans/" + quoted(plan)))


@command(app, "apply", slow=True, asks=True, keyed=True)
def apply(session: Session, plan: Plan) -> None:
    """Carry it out, if the world is still as it says."""
    session.confirm("Carry the plan out?")
    _follow(session, session.client.post(f"plans/{quoted(plan)}/actions/apply"))


@command(app, "pause", keyed=True)
def pause(session: Session, plan: Plan, reason: Annotated[str, typer.Option(help="For the others")] = "") -> None:
    """Begin no further step; moves under way go on."""
    session.rows([session.client.post(f"plans/{quoted(plan)}/actions/pause", {"reason": reason})], COLUMNS)


@command(app, "resume", slow=True, keyed=True)
def resume(session: Session, plan: Plan) -> None:
    """Go on with one that is paused, or has stopped."""
    _follow(session, session.client.post(f"plans/{quoted(plan)}/actions/resume"))


@command(app, "abort", asks=True, keyed=True)
def abort(session: Session, plan: Plan) -> None:
    """End it: what has moved stays where it is now."""
    session.confirm("Abort the plan? Moves under way are cancelled where they still can be.")
    session.rows([session.client.post(f"plans/{quoted(plan)}/actions/abort")], COLUMNS)


def drain(
    session: Session,
    name: Name,
    stop: Annotated[bool, typer.Option("--stop", help="Restart what cannot go while it runs")] = False,
    consent: Annotated[list[str] | None, typer.Option(help="An instance whose tenant was asked; several times")] = None,
    accept_losses: Annotated[
        bool, typer.Option("--accept-losses", help="Though fewer losses of hosts could be outlived")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the others")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; begin nothing")] = False,
) -> None:
    """Empty a host: shows what becomes of each of its guests, asks, and carries it out."""
    body: dict[str, Any] = {"stop": stop, "consent": consent or [], "accept_losses": accept_losses, "reason": reason}
    plan = session.client.post(f"hosts/{quoted(name)}/actions/drain", body, dry_run="true")
    if dry_run:
        _say(session, plan)
        if plan["refusals"]:
            raise CliError(" ".join(refusal["detail"] for refusal in plan["refusals"]), CONFLICT)
        return
    if session.output == "table":
        _say(session, plan)
    staying = plan["in_the_way"]
    session.confirm(
        f"Empty {name}?" + (f" {staying} of its guests would stay, and keep it from its end." if staying else "")
    )
    _follow(session, session.client.post(f"plans/{plan['id']}/actions/apply"))


def set_contract(
    session: Session,
    name: Name,
    disruption: Annotated[str, typer.Argument(help="live, restart or consent")],
    pause_limit: Annotated[int | None, typer.Option(help="ms that it may pause at the most", min=1)] = None,
) -> None:
    """Say how the cloud may move it: while it runs, also by a restart, or not without being asked."""
    body = {"disruption": disruption, "pause_limit_ms": pause_limit}
    session.rows([session.client.post(f"instances/{quoted(name)}/actions/contract", body)], CONTRACT_COLUMNS)


def register(hosts: typer.Typer, instances: typer.Typer) -> None:
    """Add the verbs to the commands of hosts and instances."""
    command(hosts, "drain", slow=True, asks=True)(drain)
    command(instances, "contract", keyed=True)(set_contract)


def _say(session: Session, plan: dict[str, Any]) -> None:
    if session.output in ("json", "yaml"):
        session.one(plan)
        return
    steps = [step | {"why": step["message"] or step["reason"]} for step in plan["steps"]]
    session.rows(steps, STEP_COLUMNS)
    session.say(f"plan {plan['id']}: {plan['state']}, {plan['done']} of {plan['moves']} moves done")
    for refusal in plan["refusals"]:
        session.say(f"refused: {refusal['detail']}")
    if plan["reason"]:
        session.say(plan["reason"])


def _follow(session: Session, plan: dict[str, Any]) -> None:
    """Wait for the end of a plan, with a line on stderr for each move that was done; say what came of it."""
    until, told = time.monotonic() + session.timeout, -1
    while session.wait and plan["state"] == "running":
        if plan["done"] != told:
            told = plan["done"]
            session.say(f"{told} of {plan['moves']} moves done")
        if time.monotonic() >= until:
            raise CliError(
                f"not done after {session.timeout:.0f} s; it goes on: cenote plan show {plan['id']}", TIMEOUT
            )
        time.sleep(POLL_SECONDS)
        plan = session.client.get("plans/" + plan["id"])
    session.rows([plan], COLUMNS)
    if plan["state"] in ("stopped", "aborted"):
        raise CliError(plan["reason"] or f"the plan is {plan['state']}", ERROR)
