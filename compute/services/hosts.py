"""Hosts: joined by a one-time token, enabled by proof, taken out of service by an operator."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from compute import broker_acl, outbox, pki, states
from compute.errors import HostInUse, InvalidState, JoinRefused
from compute.models import Host, Instance, JoinToken, Migration, Operation, Pool
from compute.placement.promises import clear_host
from compute.services.checks import check_name
from compute.services.fences import debts_of, end_fences
from compute.services.nodes import token_hash
from compute.transitions import move
from tenants.errors import NotFound, VersionMismatch
from tenants.services import audit
from tenants.services.access import Actor, authorize, system_actor

JOIN_TOKEN_HOURS = 24


@dataclass(frozen=True, slots=True)
class Joined:
    """What a machine needs to be a host. The secrets in it are shown once."""

    host: Host
    node_token: str
    broker_url: str
    ca_pem: str
    cert_pem: str


def create_join_token(*, actor: Actor, pool: Pool, name: str = "") -> tuple[JoinToken, str]:
    """Make a one-time token for a host called `name` ("" leaves the choice to the machine). Return row and secret."""
    authorize(actor, "host.create", None)
    if name:
        check_name(name)
    secret = "cnj_" + secrets.token_urlsafe(32)
    with transaction.atomic():
        row = JoinToken.objects.create(
            pool=pool,
            name=name,
            token_hash=token_hash(secret),
            expires_at=timezone.now() + timedelta(hours=JOIN_TOKEN_HOURS),
        )
        audit.record(
            actor=actor,
            action="host.create",
            target=("join_token", row.id, name or "any name"),
            after={"pool": pool.name},
        )
    return row, secret


def join_host(*, token: str, name: str, address: str, csr_pem: str) -> Joined:
    """Redeem a join token: the machine becomes a host that is `enrolling`, and the order to prove itself is written.

    The same name again (a re-install, or a join that was cut off) takes over the old row with new secrets, so that its
    guests are found again; the old node token dies. Raises JoinRefused, InvalidInput.
    """
    with transaction.atomic(durable=True):
        row = (
            JoinToken.objects.select_for_update(of=("self",))
            .select_related("pool")
            .filter(token_hash=token_hash(token))
            .first()
        )
        if row is None or row.used_at is not None or row.expires_at < timezone.now():
            raise JoinRefused("The join token is unknown, used or expired. Ask an operator for a new one.")
        if row.name and row.name != name:
            raise JoinRefused(f"The join token is for a host called {row.name}.")
        check_name(name)
        try:
            certificate = pki.sign_csr(ca_dir=settings.CA_DIR, csr_pem=csr_pem, name=name, addresses=[address])
        except pki.PkiError as error:
            # Before anything is written: a bad request must not cost the token.
            raise JoinRefused(f"The certificate request cannot be signed: {error}.") from None
        node_token = "cnn_" + secrets.token_urlsafe(32)
        host = Host.objects.select_for_update(of=("self",), no_key=True).filter(name=name).first()
        if host is None:
            host = Host.objects.create(
                name=name, pool=row.pool, address=address, node_token_hash=token_hash(node_token)
            )
        else:
            if host.pool_id != row.pool_id:
                raise JoinRefused(f"A host called {name} is in another pool.")
            if host.admin_state == "removed":
                raise JoinRefused(f"A host called {name} was removed from the cloud. Use another name.")
            host.address, host.node_token_hash = address, token_hash(node_token)
            host.save(update_fields=["address", "node_token_hash"])
        row.used_at, row.host = timezone.now(), host
        row.save(update_fields=["used_at", "host"])
        actor = system_actor("join")
        if not Operation.objects.filter(
            target_id=host.id, state__in=["pending", "running", "unwinding", "stuck"]
        ).exists():
            order_prove(actor=actor, host=host)
        audit.record(actor=actor, action="host.create", target=host, after={"address": address, "pool": row.pool.name})
    return Joined(
        host=host,
        node_token=node_token,
        broker_url=broker_url(host.id),
        ca_pem=pki.ca_pem(settings.CA_DIR),
        cert_pem=certificate,
    )


def broker_url(host_id: uuid.UUID) -> str:
    """Return the broker's address with this host's own user: it opens this host's keys and nothing else."""
    password = broker_acl.broker_password(settings.SECRET_KEY, str(host_id))
    url: str = settings.NODE_BROKER_URL.format(user=f"host-{host_id}", password=password)
    return url


def order_prove(*, actor: Actor, host: Host) -> Operation:
    """Write the order to prove itself, for a host whose row the caller has locked."""
    return outbox.submit(
        actor=actor,
        kind="host_prove",
        target_type="host",
        target_id=host.id,
        target_name=host.name,
        tenant_id=None,
        deadline_seconds=600,
    )


def prove_host(*, actor: Actor, host_id: uuid.UUID, request_key: uuid.UUID | None = None) -> tuple[Host, Operation]:
    """Have a host prove itself again. Raises OperationInProgress."""
    with transaction.atomic(durable=True):
        host = _lock(actor, host_id, "host.prove")
        operation = order_prove(actor=actor, host=host)
        Operation.objects.filter(id=operation.id).update(request_key=request_key)
        audit.record(actor=actor, action="host.prove", target=host, operation_id=operation.id)
        return host, operation


def enable_host(*, actor: Actor, host_id: uuid.UUID, if_version: int | None = None) -> Host:
    """Let the scheduler use a host again. It must have proved itself at least once. Raises InvalidState."""
    with transaction.atomic(durable=True):
        host = _lock(actor, host_id, "host.enable", if_version)
        if host.proved_at is None:
            raise InvalidState(f"{host.name} has not proved itself yet.", state=host.admin_state)
        _set_admin(actor, host, "enabled", "host.enable")
        return host


def disable_host(*, actor: Actor, host_id: uuid.UUID, reason: str = "", if_version: int | None = None) -> Host:
    """Take a host out of placement; what runs there goes on. Raises InvalidState."""
    with transaction.atomic(durable=True):
        host = _lock(actor, host_id, "host.disable", if_version)
        _set_admin(actor, host, "disabled", "host.disable", reason[:255])
        return host


def set_failure_domain(*, actor: Actor, host_id: uuid.UUID, failure_domain: str, if_version: int | None = None) -> Host:
    """Say what the host fails together with (a rack, a power feed); "" for nothing known. What runs there stays.

    Groups count from now on by the new one. Raises InvalidInput, NotFound, VersionMismatch.
    """
    if failure_domain:
        check_name(failure_domain, pointer="/failure_domain")
    with transaction.atomic(durable=True):
        host = _lock(actor, host_id, "host.update", if_version)
        before, host.failure_domain = host.failure_domain, failure_domain
        host.version += 1
        host.save(update_fields=["failure_domain", "version"])
        audit.record(
            actor=actor,
            action="host.update",
            target=host,
            before={"failure_domain": before},
            after={"failure_domain": failure_domain},
        )
        return host


def remove_host(*, actor: Actor, host_id: uuid.UUID, if_version: int | None = None) -> Host:
    """Let go of a disabled host that carries nothing. Its token and broker user die with it. Raises HostInUse, InvalidState."""
    with transaction.atomic(durable=True):
        host = _lock(actor, host_id, "host.delete", if_version)
        held = Instance.unscoped.filter(host=host).exclude(state="deleted").count()
        if held:
            raise HostInUse(f"{host.name} still carries {held} instances.", instances=held)
        underway = Migration.objects.filter(
            Q(source=host) | Q(destination=host), state__in=states.MIGRATION_OPEN
        ).count()
        if underway:
            raise HostInUse(f"{underway} instances are on their way to or from {host.name}.", instances=underway)
        clear_host(host=host)
        for debt in debts_of(host).select_for_update():
            # Its token dies here: nobody will ever pay, and what is kept until then (addresses) is free.
            move(debt, "superseded", settled=True)
        end_fences(host=host, reason="the host was removed")
        _set_admin(actor, host, "removed", "host.delete")
        # The name is free again; the row stays for the decisions and operations that speak of it.
        Host.objects.filter(id=host.id).update(node_token_hash="", name=f"{host.name[:40]}-removed-{host.id.hex[-12:]}")
        return host


def _lock(actor: Actor, host_id: uuid.UUID, permission: str, if_version: int | None = None) -> Host:
    authorize(actor, permission, None)
    host = (
        Host.objects.select_for_update(of=("self",), no_key=True)
        .select_related("pool")
        .filter(id=host_id)
        .exclude(admin_state="removed")
        .first()
    )
    if host is None:
        raise NotFound
    if if_version is not None and host.version != if_version:
        raise VersionMismatch(version=host.version)
    return host


def _set_admin(actor: Actor, host: Host, state: str, action: str, reason: str = "") -> None:
    before = host.admin_state
    if before == state:
        return
    move(host, state, column="admin_state", state_reason=reason)
    audit.record(
        actor=actor,
        action=action,
        target=host,
        before={"admin_state": before},
        after={"admin_state": state, "reason": reason},
    )
