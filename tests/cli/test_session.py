"""Contexts, identities, and a network that fails."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Callable

from tests.api.conftest import World
from tests.cli.conftest import Cli


def test_login_stores_a_private_file_and_later_commands_use_it(cli: Cli, world: World) -> None:
    url = cli.env.pop("CENOTE_URL")
    token = cli.env.pop("CENOTE_TOKEN")
    operator = cli.env.pop("CENOTE_OPERATOR_TOKEN")
    assert "cenote login" in cli("whoami", code=2).err
    said = cli("login", "--url", url, "--name", "demo", "--operator", stdin=f"{token}\n{operator}\n").err
    assert "tenant acme (owner)" in said
    file = cli.home / ".config" / "cenote" / "config.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cli("whoami", "-o", "json").json["tenant"]["name"] == "acme"
    assert cli("whoami", "--as-operator", "-o", "json").json["is_operator"] is True
    assert cli("context", "list", "-o", "json").json == [
        {"name": "demo", "current": True, "url": url, "operator": True}
    ]
    assert world.owner.token not in cli("context", "list").out
    cli("context", "delete", "demo", "--yes")
    cli("whoami", "--context", "demo", code=2)


def test_a_url_from_the_environment_never_gets_another_clouds_token(cli: Cli) -> None:
    cli("login", "--name", "demo")
    del cli.env["CENOTE_TOKEN"]
    ran = cli("whoami", code=2, CENOTE_URL="http://127.0.0.1:1")
    assert "no token" in ran.err


def test_a_wrong_token_is_told_in_one_line(cli: Cli) -> None:
    ran = cli("whoami", code=1, CENOTE_TOKEN="cnt_wrong")
    assert ran.err == "cenote: The token is not valid. (token_invalid)\n"


def test_nobody_at_the_address_is_told_after_some_tries(cli: Cli) -> None:
    ran = cli("whoami", code=1, CENOTE_URL="http://127.0.0.1:1")
    assert ran.err.startswith("cenote: no answer from http://127.0.0.1:1/")


def serve(answer: Callable[[int, bytes], bytes | None]) -> tuple[str, list[bytes]]:
    """A server that answers request number n with what `answer(n, request)` says; None breaks the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                head, _, body = request.partition(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length:")
                    ),
                    0,
                )
                while len(body) < length:
                    body += connection.recv(65536)
                seen.append(head)
                reply = answer(len(seen), head)
                if reply is not None:
                    connection.sendall(reply)

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", seen


def _reply(status: str, body: object, *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def _keys(seen: list[bytes]) -> list[bytes]:
    return [line for head in seen for line in head.lower().split(b"\r\n") if line.startswith(b"idempotency-key:")]


def test_a_change_is_sent_again_with_the_same_key(cli: Cli) -> None:
    flavor = {"name": "x", "vcpus": 1, "memory_mib": 16, "disk_gib": 1, "kind": ""}

    def answer(number: int, head: bytes) -> bytes | None:
        if number == 1:
            return None  # the answer is lost
        if number == 2:
            return _reply("503 Busy", {"detail": "busy", "code": "database_unavailable"}, "Retry-After: 0")
        return _reply("201 Created", flavor)

    url, seen = serve(answer)
    cli("flavor", "create", "x", "--vcpus", "1", "--memory-mib", "16", "--disk-gib", "1", CENOTE_URL=url)
    assert len(seen) == 3
    assert len(set(_keys(seen))) == 1
    assert len(_keys(seen)) == 3


def test_a_delete_whose_answer_is_lost_is_not_sent_again(cli: Cli) -> None:
    url, seen = serve(lambda number, head: None)
    ran = cli("keypair", "delete", "laptop", "--yes", code=1, CENOTE_URL=url)
    assert len(seen) == 1
    assert "see whether it was done" in ran.err


def test_it_runs_as_a_program_of_its_own_and_starts_quickly(cli: Cli) -> None:
    began = time.monotonic()
    assert cli.process("flavor", "list", "-o", "name").out == "nano\n"
    assert cli.process("nosuchnoun", code=2).out == ""
    assert time.monotonic() - began < 10
