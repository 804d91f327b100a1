"""cenote host ..., cenote pool ..."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.session import Session, command

app = typer.Typer(help="The machines; for operators", no_args_is_help=True)
pool_app = typer.Typer(help="Hosts that share storage and network", no_args_is_help=True)
COLUMNS = {
    "name": "name",
    "state": "admin_state",
    "health": "observed_state",
    "pool": "pool.name",
    "modes": "modes",
    "instances": "instances",
    "vcpus": "used.vcpus/capacity.vcpus",
    "memory_mib": "used.memory_mib/capacity.memory_mib",
    "disk_gib": "used.disk_gib/capacity.disk_gib",
    "seen": "last_seen_at",
}
SHARE_COLUMNS = {
    "tenant": "tenant.name",
    "shares": "shares",
    "applied": "applied",
    "delivered": "delivered",
    "wanted": "wanted",
    "entitled": "entitled",
}
FENCE_COLUMNS = {"driver": "driver", "state": "state", "tries": "tries", "evidence": "evidence", "error": "error"}
EVACUATION_COLUMNS = {
    "state": "state",
    "moved": "moved",
    "blocked": "blocked",
    "asked": "asked_at",
    "ended": "ended_at",
}
FATE_COLUMNS = {
    "guest": "instance.name",
    "tenant": "tenant.name",
    "priority": "priority",
    "comes_back_on": "host",
    "why_not": "message",
}
STAYING_COLUMNS = {"host": "at", "guest": "instance.name", "tenant": "tenant.name", "why_not": "message"}
AMOUNT_COLUMNS = {
    "resource": "resource",
    "capacity": "capacity",
    "used": "used",
    "held": "held",
    "free": "free",
    "stranded": "stranded",
    "per_day": "trend.per_day",
    "days_until_full": "until",
}
FIT_COLUMNS = {
    "flavor": "flavor",
    "vms": "vm.count",
    "containers": "container.count",
    "hosts": "vm.hosts",
    "runs_out_first": "vm.limited_by",
}
FAILURE_COLUMNS = {"name": "name", "pool": "pool.name", "failure_domain": "failure_domain"}
POOL_COLUMNS = {"name": "name", "description": "description", "age": "created_at"}
POOL_FOR_OPERATORS = {
    "name": "name",
    "policy": "policy",
    "hosts": "hosts_total",
    "up": "hosts_up",
    "instances": "instances",
    "vcpus": "used.vcpus/capacity.vcpus",
    "memory_mib": "used.memory_mib/capacity.memory_mib",
    "disk_gib": "used.disk_gib/capacity.disk_gib",
}
ON_LOSS_COLUMNS = {"name": "name", "fence": "auto_fence", "evacuate": "auto_evacuate"}
_OUTLOOK = ("soonest", "expected", "latest")

Name = Annotated[str, typer.Argument(help="Name or id")]


@command(app, "list")
def list_hosts(session: Session, pool: Annotated[str | None, typer.Option(help="Of this pool alone")] = None) -> None:
    """Hosts with their states and load."""
    session.rows(list(session.client.pages("hosts", pool=pool)), COLUMNS)


@command(app, "show")
def show_host(session: Session, name: Name) -> None:
    """All about one host, with what it proved of itself."""
    host = session.client.get("hosts/" + quoted(name))
    if session.output == "table":  # a line for each fact
        host |= host.pop("facts")
    session.one(host)


@command(app, "shares")
def show_shares(session: Session, name: Name) -> None:
    """CPU that tenants got there of late, against what they are entitled to."""
    items = session.client.get(f"hosts/{quoted(name)}/shares")["items"]
    session.rows(items if session.output in ("json", "yaml") else [in_vcpus(item) for item in items], SHARE_COLUMNS)


def in_vcpus(item: dict[str, Any]) -> dict[str, Any]:
    """Rates as people read them."""
    return item | {rate: f"{item[rate]:.2f}" for rate in ("delivered", "wanted", "entitled")}


@command(app, "enable", keyed=True)
def enable_host(session: Session, name: Name) -> None:
    """Let placement use it."""
    session.rows([session.client.post(f"hosts/{quoted(name)}/actions/enable")], COLUMNS)


@command(app, "disable", keyed=True)
def disable_host(
    session: Session, name: Name, reason: Annotated[str, typer.Option(help="For the others")] = ""
) -> None:
    """Take it out of placement; what runs there goes on."""
    session.rows([session.client.post(f"hosts/{quoted(name)}/actions/disable", {"reason": reason})], COLUMNS)


@command(app, "domain", keyed=True)
def set_failure_domain(
    session: Session, name: Name, domain: Annotated[str, typer.Argument(help="A rack, a power feed; '' for none")]
) -> None:
    """Say what it fails together with; groups spread over these."""
    session.rows([session.client.patch(f"hosts/{quoted(name)}", {"failure_domain": domain})], FAILURE_COLUMNS)


@command(app, "loss")
def show_loss(session: Session, name: Name) -> None:
    """Where each of its guests would come back were it lost now, and why the others would not."""
    _say_loss(session, session.client.get(f"hosts/{quoted(name)}/loss"))


@command(app, "fence", asks=True, keyed=True)
def fence_host(
    session: Session,
    name: Name,
    statement: Annotated[str, typer.Option(help="Your word that it is off, and how you know; else the driver's")] = "",
    reason: Annotated[str, typer.Option(help="For the others")] = "",
) -> None:
    """Have a host that is down switched off for sure, or say that it is off."""
    if statement:
        session.confirm(
            f"Is {name} off? Its guests will run elsewhere; a second copy of one that still runs loses data."
        )
    else:
        session.confirm(f"Switch {name} off? Whatever still runs there loses power.")
    body = {"reason": reason, **({"statement": statement} if statement else {})}
    session.rows([session.client.post(f"hosts/{quoted(name)}/actions/fence", body)], FENCE_COLUMNS)


@command(app, "evacuate", asks=True, keyed=True)
def evacuate_host(
    session: Session,
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who would come back where; move nobody")] = False,
) -> None:
    """Start the guests of a fenced host on others, by priority."""
    path = f"hosts/{quoted(name)}/actions/evacuate"
    if dry_run:
        _say_loss(session, session.client.post(path, dry_run="true"))
        return
    session.confirm(f"Start the guests of {name} on other hosts?")
    found = session.client.post(path)
    shown = found if session.output in ("json", "yaml") else found | {"blocked": len(found["blocked"])}
    session.rows([shown], EVACUATION_COLUMNS)


@command(app, "return", keyed=True)
def return_host(session: Session, name: Name) -> None:
    """Take a fenced host back that is switched on again; its stale guests go first."""
    session.rows([session.client.post(f"hosts/{quoted(name)}/actions/return")], COLUMNS)


def _say_loss(session: Session, loss: dict[str, Any]) -> None:
    if session.output in ("json", "yaml"):
        session.one(loss)
        return
    session.rows(loss["guests"], FATE_COLUMNS)


@command(app, "prove", slow=True, keyed=True)
def prove_host(session: Session, name: Name) -> None:
    """Have it boot its proof guests again."""
    answer = session.client.post(f"hosts/{quoted(name)}/actions/prove")
    session.finish([answer["operation"]])
    session.rows([session.client.get(f"hosts/{answer['host']['id']}")], COLUMNS)


@command(app, "delete", asks=True)
def delete_host(session: Session, name: Name) -> None:
    """Let go of a disabled host that carries nothing."""
    session.confirm(f"Remove the host {name} from the cloud?")
    session.client.delete("hosts/" + quoted(name))
    session.say(f"removed {name}")


@command(app, "join-token", keyed=True)
def join_token(
    session: Session,
    pool: Annotated[str, typer.Argument(help="Name or id of the pool that the machine joins")],
    name: Annotated[str | None, typer.Option(help="Name of the host; else the machine's own")] = None,
) -> None:
    """A one-time token for deploy/join, shown once."""
    answer = session.client.post("hosts/join-tokens", {"pool": pool, **({"name": name} if name else {})})
    session.one(answer)


@command(pool_app, "list")
def list_pools(session: Session) -> None:
    """Pools; for operators with their load."""
    session.rows(list(session.client.pages("pools")), POOL_FOR_OPERATORS if session.as_operator else POOL_COLUMNS)


@command(pool_app, "show")
def show_pool(session: Session, name: Name) -> None:
    """All about one pool."""
    session.one(session.client.get("pools/" + quoted(name)))


@command(pool_app, "losses")
def show_losses(session: Session, name: Name) -> None:
    """Which guests would not come back were their host lost now, and why; for operators."""
    found = session.client.get(f"pools/{quoted(name)}/losses")
    if session.output in ("json", "yaml"):
        session.one(found)
        return
    rows = [{"at": loss["host"]["name"], **fate} for loss in found["worst"] for fate in loss["staying"]]
    session.rows(rows, STAYING_COLUMNS)
    session.say(f"{found['staying']} of {found['guests']} guests on {found['hosts']} hosts would not come back")
    if unknown := [loss["host"]["name"] for loss in found["worst"] if not loss["looked_at"]]:
        session.say(f"not gone through: {', '.join(unknown)} (cenote host loss NAME)")


@command(pool_app, "on-loss")
def set_pool_on_loss(
    session: Session,
    name: Name,
    fence: Annotated[bool | None, typer.Option(help="Fence hosts that are down, unasked")] = None,
    evacuate: Annotated[bool | None, typer.Option(help="Move the guests of a fenced host, unasked")] = None,
) -> None:
    """Say what the loss of a host sets going by itself; both are off unless told."""
    wanted = {"auto_fence": fence, "auto_evacuate": evacuate}
    body = {key: value for key, value in wanted.items() if value is not None}
    session.rows([session.client.patch("pools/" + quoted(name), body)], ON_LOSS_COLUMNS)


@command(pool_app, "capacity")
def show_capacity(session: Session, name: Name) -> None:
    """How full a pool is, how many more of each flavor fit, and how long the room lasts; for operators."""
    found = session.client.get(f"pools/{quoted(name)}/capacity")
    if session.output != "table":
        session.one(found)
        return
    session.rows([_amount(resource, amount) for resource, amount in found["amounts"].items()], AMOUNT_COLUMNS)
    session.say("")
    session.rows(found["fits"], FIT_COLUMNS)


def _amount(resource: str, amount: dict[str, Any]) -> dict[str, Any]:
    """A resource with its outlook in words: days, the soonest and the latest."""
    trend = amount["trend"]
    if trend is None:
        return amount | {"resource": resource, "trend": {"per_day": None}, "until": "not enough history"}
    soonest, expected, latest = ("never" if trend[end] is None else f"{trend[end]:.0f}" for end in _OUTLOOK)
    rate = trend | {"per_day": f"{trend['per_day']:+.1f}"}
    return amount | {"resource": resource, "trend": rate, "until": f"{expected} ({soonest} to {latest})"}
