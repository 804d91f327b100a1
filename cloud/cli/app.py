"""The program: its nouns, and how it ends."""

from __future__ import annotations

import typer

from cloud.cli.commands import (
    access,
    catalog,
    contexts,
    grants,
    groups,
    hosts,
    instances,
    migrations,
    operations,
    plans,
    ssh,
    tenants,
    usage,
)

app = typer.Typer(
    name="cenote",
    help="A private cloud from the command line. Names or ids everywhere; data on stdout, remarks on stderr. "
    "Exit codes: 0 done, 1 error, 2 usage, 3 not found, 4 conflict, 5 time is up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(instances.app, name="instance")
app.add_typer(hosts.app, name="host")
app.add_typer(hosts.pool_app, name="pool")
app.add_typer(migrations.app, name="migration")
app.add_typer(plans.app, name="plan")
app.add_typer(operations.app, name="operation")
app.add_typer(operations.decision_app, name="decision")
app.add_typer(operations.audit_app, name="audit")
app.add_typer(catalog.flavor_app, name="flavor")
app.add_typer(catalog.image_app, name="image")
app.add_typer(catalog.keypair_app, name="keypair")
app.add_typer(groups.app, name="group")
app.add_typer(tenants.app, name="tenant")
app.add_typer(tenants.quota_app, name="quota")
app.add_typer(grants.app, name="grant")
app.add_typer(grants.alarm_app, name="alarm")
app.add_typer(usage.app, name="usage")
app.add_typer(usage.price_app, name="price")
app.add_typer(access.member_app, name="member")
app.add_typer(access.token_app, name="token")
app.add_typer(access.user_app, name="user")
app.add_typer(contexts.app, name="context")
contexts.register(app)
ssh.register(app)
ssh.register(instances.app)
migrations.register(instances.app)
plans.register(hosts.app, instances.app)


def main() -> None:
    """Run; typer ends the process with the command's exit code."""
    app()
