"""What a host's broker user can do, asked of a real Redis."""

from __future__ import annotations

import pytest
import redis

from compute.broker_acl import acl_rule, broker_password, queue_name
from tests.node.conftest import SECRET_KEY, Broker, Worker
from tests.node.control import Control, wait_for
from tests.node.orders import a_call, an_id

# Fixed: parametrised test names must be the same in every test process.
MINE, OTHER = "3e249ba4-5a0c-4f8e-9b57-0d3a4c1f6e10", "8a0895ab-7c1e-4d55-9d4c-5c1f3b1e0a11"


@pytest.fixture
def host(broker: Broker) -> redis.Redis:
    broker.admit(MINE)
    broker.admit(OTHER)
    broker.ring(OTHER, "a call")
    broker.app().send_task("compute.operation_turn", args=["an operation"], queue="control", retry=False)
    return broker.client(f"host-{MINE}", broker_password(SECRET_KEY, MINE))


REFUSED = [
    ("BRPOP", queue_name(OTHER), 1),
    ("LLEN", queue_name(OTHER)),
    ("BRPOP", "control", 1),
    ("LPUSH", "control", "forged"),
    ("LPUSH", queue_name(OTHER), "forged"),
    ("SADD", f"_kombu.binding.{queue_name(OTHER)}", "x"),
    ("SMEMBERS", "_kombu.binding.control"),
    ("KEYS", "*"),
    ("SCAN", 0),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("FLUSHALL",),
    ("EVAL", "while true do end", 0),
    ("SCRIPT", "LOAD", "return 1"),
    ("FUNCTION", "LIST"),
    ("CONFIG", "GET", "requirepass"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", f"host-{MINE}", "+@all"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", 1000),
    ("MONITOR",),
    ("INFO",),
    ("PUBLISH", "anything", "x"),
    ("SUBSCRIBE", "anything"),
    ("SHUTDOWN",),
    ("RENAME", queue_name(MINE), queue_name(OTHER)),
    ("SORT", queue_name(MINE), "BY", "nosort", "GET", "*"),
    ("MIGRATE", "127.0.0.1", 1, queue_name(MINE), 0, 1),
]


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: " ".join(map(str, command[:2])).lower()[:20])
def test_a_host_may_not(host: redis.Redis, broker: Broker, command: tuple[object, ...]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        host.execute_command(*command)  # type: ignore[no-untyped-call]
    assert broker.client().llen(queue_name(OTHER)) == 1


def test_anothers_password_opens_nothing(host: redis.Redis, broker: Broker) -> None:
    for user in (f"host-{OTHER}", "default"):
        with pytest.raises(redis.AuthenticationError):
            broker.client(user, broker_password(SECRET_KEY, MINE)).ping()


def test_passwords_depend_on_secret_and_host() -> None:
    made = {broker_password(key, host_id) for key in ("a", "b") for host_id in (MINE, OTHER)}
    assert len(made) == 4
    assert all(len(password) == 64 for password in made)
    assert acl_rule(MINE, "p")[0] == "reset"  # an older, wider rule of the same user does not linger


def test_the_worker_needs_no_more_than_the_rule(worker: Worker, control: Control, broker: Broker) -> None:
    admin = broker.client()
    worker.start()
    wait_for(lambda: control.fetches >= 1, 15, "the first sweep")
    for _ in range(3):
        call = a_call("instance.prepare", an_id())
        control.order(call)
        broker.ring(worker.host_id, call.id)
        assert control.wait_answer(call, 8).outcome == "done"
        admin.execute_command("CLIENT", "KILL", "USER", f"host-{worker.host_id}")  # type: ignore[no-untyped-call]
    denied = {entry["object"] for entry in admin.acl_log()}
    assert not denied, denied
    # A sweep may have fetched the last call before its doorbell was heard, which then rings in vain.
    wait_for(lambda: admin.llen(queue_name(worker.host_id)) == 0, 15, "an empty queue")
