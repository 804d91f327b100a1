"""cenote flavor ..., cenote image ..., cenote keypair ..."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cloud.cli.commands.instances import quoted
from cloud.cli.errors import USAGE, CliError
from cloud.cli.session import Session, command

flavor_app = typer.Typer(help="Sizes", no_args_is_help=True)
image_app = typer.Typer(help="What can be booted", no_args_is_help=True)
keypair_app = typer.Typer(help="Public SSH keys", no_args_is_help=True)
FLAVOR_COLUMNS = {
    "name": "name",
    "vcpus": "vcpus",
    "memory_mib": "memory_mib",
    "disk_gib": "disk_gib",
    "kind": "kind",
}
IMAGE_COLUMNS = {
    "name": "name",
    "kind": "kind",
    "format": "format",
    "disk_gib": "virtual_size_gib",
    "user": "default_user",
    "description": "description",
}
KEYPAIR_COLUMNS = {"name": "name", "fingerprint": "fingerprint", "age": "created_at"}

Name = Annotated[str, typer.Argument(help="Name or id")]
Tenant = Annotated[str | None, typer.Option(help="Another tenant than the token's own")]


@command(flavor_app, "list")
def list_flavors(session: Session) -> None:
    """Sizes that can be asked for."""
    session.rows(list(session.client.pages("flavors")), FLAVOR_COLUMNS)


@command(flavor_app, "show")
def show_flavor(session: Session, name: Name) -> None:
    """One size."""
    session.one(session.client.get("flavors/" + quoted(name)))


@command(flavor_app, "create", keyed=True)
def create_flavor(
    session: Session,
    name: Annotated[str, typer.Argument()],
    vcpus: Annotated[int, typer.Option(min=1)],
    memory_mib: Annotated[int, typer.Option(min=16)],
    disk_gib: Annotated[int, typer.Option(min=1)],
    kind: Annotated[str | None, typer.Option(help="vm or container; left out: for both")] = None,
    cpu_model: Annotated[str | None, typer.Option(help="That its VMs get, such as EPYC-Rome")] = None,
    cpu_flag: Annotated[list[str] | None, typer.Option(help="That its VMs get, such as avx2; may be repeated")] = None,
    numa_nodes: Annotated[int | None, typer.Option(min=1, max=8, help="NUMA cells to spread it over, evenly")] = None,
    hugepages_kib: Annotated[int | None, typer.Option(help="Size of its memory's pages: 2048 or 1048576")] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="A CPU for each of its vCPU")] = False,
) -> None:
    """Offer a size; for operators."""
    body: dict[str, Any] = {"name": name, "vcpus": vcpus, "memory_mib": memory_mib, "disk_gib": disk_gib}
    asked: dict[str, Any] = {"kind": kind, "cpu_model": cpu_model, "cpu_flags": cpu_flag}
    asked |= {"numa_nodes": numa_nodes, "hugepages_kib": hugepages_kib, "pinned": pinned}
    body |= {field: value for field, value in asked.items() if value}
    session.rows([session.client.post("flavors", body)], FLAVOR_COLUMNS)


@command(image_app, "list")
def list_images(session: Session) -> None:
    """Images of VMs and containers."""
    session.rows(list(session.client.pages("images")), IMAGE_COLUMNS)


@command(image_app, "show")
def show_image(session: Session, name: Name) -> None:
    """One image."""
    session.one(session.client.get("images/" + quoted(name)))


@command(keypair_app, "list")
def list_keypairs(session: Session, tenant: Tenant = None) -> None:
    """The tenant's keys."""
    session.rows(list(session.client.pages("keypairs", tenant=tenant)), KEYPAIR_COLUMNS)


@command(keypair_app, "create", keyed=True)
def create_keypair(
    session: Session,
    name: Annotated[str, typer.Argument()],
    file: Annotated[Path, typer.Argument(help="The public key, for example ~/.ssh/id_ed25519.pub")],
    tenant: Tenant = None,
) -> None:
    """Store a public key."""
    try:
        public_key = file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file}: {error}", USAGE)
    if "PRIVATE KEY" in public_key:
        raise CliError(f"{file} is the private half; give the file that ends in .pub", USAGE)
    body = {"name": name, "public_key": public_key, **({"tenant": tenant} if tenant else {})}
    session.rows([session.client.post("keypairs", body)], KEYPAIR_COLUMNS)


@command(keypair_app, "delete", asks=True)
def delete_keypair(session: Session, name: Name, tenant: Tenant = None) -> None:
    """Forget a key; instances that were made with it keep it."""
    session.confirm(f"Delete the keypair {name}?")
    session.client.delete("keypairs/" + quoted(name), tenant=tenant)
    session.say(f"deleted {name}")
