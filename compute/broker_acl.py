"""What a host's own broker user may do: pop its own queue, and nothing else.

Pure: the control plane sets the rule (`reconcilers.brokers`), the tests hold a real worker against it.
"""

from __future__ import annotations

import hashlib
import hmac

# Commands on values, all bound to the keys below; no look at the key space, no scripts, nothing of an administrator.
_COMMANDS = (
    *("@list", "@set", "@sortedset", "@hash", "@string", "@transaction"),
    *("ping", "hello", "auth", "select", "client|setname", "client|id", "exists", "del", "unlink", "expire", "ttl"),
)


def queue_name(host_id: str) -> str:
    """Return the queue that a host's worker listens on."""
    return f"host.{host_id}"


def broker_password(secret_key: str, host_id: str) -> str:
    """Return a host's broker password, derived: the control plane can set it again after the broker lost everything."""
    return hmac.new(secret_key.encode(), f"broker:{host_id}".encode(), hashlib.sha256).hexdigest()


def acl_rule(host_id: str, password: str) -> list[str]:
    """Return the arguments of `ACL SETUSER name ...` for a host's user. Keys: its queue, binding and unacked sets only."""
    queue = queue_name(host_id)
    keys = (f"~{queue}*", f"~_kombu.binding.{queue}*", f"~_kombu.binding_permanent.{queue}*", f"~unacked.{queue}*")
    return ["reset", "on", f">{password}", *keys, "resetchannels", "-@all", *(f"+{command}" for command in _COMMANDS)]
