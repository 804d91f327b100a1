"""What a host's own broker user may do: hear its own doorbell, and nothing else.

Pure: the control plane sets the rule (`reconcilers.brokers`), the tests hold a real worker against it.
"""

from __future__ import annotations

import hashlib
import hmac

# What kombu sends to declare a queue and wait on it, without emulated acknowledgements (`compute.node.app`): no command
# that looks at the key space or at others, and no script, since one that never ends would stop the broker for all.
_COMMANDS = (
    *("hello", "auth", "ping", "select", "client|setname"),
    *("multi", "exec", "discard", "sadd", "smembers", "llen", "brpop"),
)


def queue_name(host_id: str) -> str:
    """Return the queue that a host's worker listens on."""
    return f"host.{host_id}"


def broker_password(secret_key: str, host_id: str) -> str:
    """Return a host's broker password, derived: the control plane can set it again after the broker lost everything."""
    return hmac.new(secret_key.encode(), f"broker:{host_id}".encode(), hashlib.sha256).hexdigest()


def acl_rule(host_id: str, password: str) -> list[str]:
    """Return the arguments of `ACL SETUSER name ...` for a host's user. Keys: its own queue and that queue's bindings."""
    queue = queue_name(host_id)
    keys = (f"~{queue}*", f"~_kombu.binding.{queue}*", f"~_kombu.binding_permanent.{queue}*")
    return ["reset", "on", f">{password}", *keys, "resetchannels", "-@all", *(f"+{command}" for command in _COMMANDS)]
