"""Public SSH keys of a tenant."""

from __future__ import annotations

import base64
import hashlib
import uuid

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from django.db import IntegrityError, transaction

from compute.models import Keypair
from compute.services.checks import has_control
from tenants.errors import InvalidInput, NameTaken, NotFound
from tenants.models import Tenant
from tenants.services import audit, quotas
from tenants.services.access import Actor, authorize


def create_keypair(*, actor: Actor, tenant: Tenant, name: str, public_key: str) -> Keypair:
    """Store a public key in OpenSSH's one-line form. Raises InvalidInput, NameTaken, QuotaExceeded, PermissionDenied."""
    authorize(actor, "keypair.create", tenant)
    if not name or len(name) > 63 or has_control(name) or name != name.strip():
        raise InvalidInput.field("/name", "invalid_name", "A key's name is 1 to 63 printable characters.")
    line, fingerprint = _parse(public_key)
    with transaction.atomic(durable=True):
        try:
            with transaction.atomic():
                keypair: Keypair = Keypair.unscoped.create(
                    tenant=tenant, name=name, public_key=line, fingerprint=fingerprint
                )
        except IntegrityError:
            raise NameTaken(f"There is a key called {name} already.") from None
        audit.record(
            actor=actor, action="keypair.create", tenant=tenant, target=keypair, after={"fingerprint": fingerprint}
        )
        quotas.charge(tenant=tenant, amounts={"keypairs": 1}, actor=actor)
        return keypair


def delete_keypair(*, actor: Actor, keypair_id: uuid.UUID) -> None:
    """Forget a key. Instances that were made with it keep it. Raises NotFound, PermissionDenied."""
    with transaction.atomic(durable=True):
        keypair = (
            Keypair.unscoped.select_for_update(of=("self",)).select_related("tenant").filter(id=keypair_id).first()
        )
        if keypair is None:
            raise NotFound
        authorize(actor, "keypair.delete", keypair.tenant_id)
        audit.record(actor=actor, action="keypair.delete", tenant=keypair.tenant_id, target=keypair)
        tenant = keypair.tenant
        keypair.delete()
        quotas.release(tenant=tenant, amounts={"keypairs": 1})


def _parse(text: str) -> tuple[str, str]:
    """Return the key as one clean line, and its fingerprint as ssh-keygen prints it."""
    line = text.strip() if isinstance(text, str) else ""
    wrong = InvalidInput.field(
        "/public_key",
        "invalid_public_key",
        "Give a public key in OpenSSH's form, for example the content of id_ed25519.pub.",
    )
    if not line or len(line) > 8192 or has_control(line):
        raise wrong
    try:
        load_ssh_public_key(line.encode())
        kind, body = line.split()[:2]
        digest = hashlib.sha256(base64.b64decode(body)).digest()
    except (ValueError, UnsupportedAlgorithm, UnicodeError):
        raise wrong from None
    comment = " ".join(line.split()[2:])
    fingerprint = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    return f"{kind} {body} {comment}".strip(), fingerprint
