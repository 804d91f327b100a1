"""R1: every host that was not removed has its own broker user, limited to its own keys; R2: a removed one has none.

Written again each period: a broker that lost all of its state has them back within one."""

from __future__ import annotations

import redis
from django.conf import settings

from compute import broker_acl
from compute.models import Host


def run(client: redis.Redis) -> int:
    """Ensure the users on `client`; return how many were set or removed."""
    known = {str(name) for name in _texts(client.acl_users())}
    wanted = {
        f"host-{host_id}": str(host_id)
        for host_id in Host.objects.exclude(admin_state="removed").values_list("id", flat=True)
    }
    changed = 0
    for name, host_id in wanted.items():
        if name not in known:
            password = broker_acl.broker_password(settings.SECRET_KEY, host_id)
            client.execute_command("ACL", "SETUSER", name, *broker_acl.acl_rule(host_id, password))  # type: ignore[no-untyped-call]
            changed += 1
    for name in known - set(wanted):
        if name.startswith("host-"):
            client.execute_command("ACL", "DELUSER", name)  # type: ignore[no-untyped-call]
            changed += 1
    return changed


def _texts(values: list[bytes | str]) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else value for value in values]
