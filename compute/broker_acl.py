"""What a host's own broker user may do: pop its own queue, and nothing else.

Pure: the control plane sets the rule (`reconcilers.brokers`), the tests hold a real worker against it.
"""

from __future__ import annotations

import hashlib
import hmac

# What kombu's Redis transport uses to consume one queue with early acknowledgement, and to keep its connection.
_COMMANDS = (
    *("ping", "hello", "auth", "select", "info", "client|setinfo", "client|setname", "client|id"),
    *(
        "brpop",
        "rpop",
        "lpush",
        "rpush",
        "llen",
        "del",
        "exists",
        "expire",
        "set",
        "get",
        "evalsha",
        "eval",
        "script|load",
    ),
    *(
        "sadd",
        "srem",
        "smembers",
        "hset",
        "hget",
        "hdel",
        "zadd",
        "zrem",
        "zrevrangebyscore",
        "multi",
        "exec",
        "watch",
        "unwatch",
    ),
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
    keys = (f"~{queue}*", f"~_kombu.binding.{queue}*", f"~unacked.{queue}*")
    return ["reset", "on", f">{password}", *keys, "resetchannels", "-@all", *(f"+{command}" for command in _COMMANDS)]
