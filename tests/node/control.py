"""A control plane of one page: nodeapi over a unix socket, with rows in memory. It hands out a waiting call once, keeps
each answer it was sent, and can be taken away (`down`)."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from compute.wire import Call, CallAnswer, HeartbeatAnswer

TOKEN = "cnn_for-this-host-alone"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


class Control:
    """`calls` are JSON as the node gets them; `answers` what came back, in order of arrival."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.lock = threading.Lock()
        self.waiting: list[tuple[str, dict[str, Any]]] = []  # host, call
        self.tokens = {TOKEN: ""}  # node token -> host
        self.join_tokens: set[str] = set()
        self.answered_by: dict[str, str] = {}  # call -> host
        self.answers: list[CallAnswer] = []
        self.reports: list[dict[str, Any]] = []
        self.fetches = 0
        self.tuning = HeartbeatAnswer(heartbeat_seconds=1.0, sweep_seconds=30.0)
        self.network: dict[str, Any] = {"networks": [], "hosts": [], "ports": []}
        self.refuse_answers = 0  # an HTTP status
        self.lose_answers = 0  # taken in, then the connection is cut before the node hears of it
        self._server: _Server | None = None
        self.up()

    def up(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = _Server(str(self.socket), handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Gone: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self.socket.unlink(missing_ok=True)
            self._server = None

    def order(self, *calls: Call, host: str = "") -> None:
        with self.lock:
            self.waiting += [(host, call.to_json()) for call in calls]

    def answers_to(self, call: Call) -> list[CallAnswer]:
        with self.lock:
            return [answer for answer in self.answers if answer.call_id == call.id]

    def answered(self, call: Call, times: int = 1) -> bool:
        return len(self.answers_to(call)) >= times

    def wait_answer(self, call: Call, seconds: float = 10.0) -> CallAnswer:
        wait_for(lambda: self.answered(call), seconds, f"an answer to {call.method}")
        return self.answers_to(call)[0]

    def handle(self, token: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        with self.lock:
            if path == "join":
                return self._join(body)
            host = self.tokens.get(token)
            if host is None:
                return 401, {"code": "token_invalid"}
            if self._server is None:
                return 0, None  # a connection that was kept from before
            if path == "calls/fetch":
                self.fetches += 1
                given = [entry for entry in self.waiting if entry[0] == host][: body["limit"]]
                self.waiting = [entry for entry in self.waiting if entry not in given]
                return 200, {"calls": [call for _, call in given]}
            if path == "heartbeat":
                self.reports.append(body)
                return 200, self.tuning.to_json()
            if path == "network":
                return 200, self.network
            call_id = path.split("/")[1]
            if self.refuse_answers:
                return self.refuse_answers, {"code": "refused_by_test"}
            answer = CallAnswer.from_json(body)
            assert answer.call_id == call_id
            self.answers.append(answer)
            self.answered_by[call_id] = host
            if self.lose_answers:
                self.lose_answers -= 1
                return 0, None
            return 204, None

    def _join(self, body: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        if body["token"] not in self.join_tokens or "BEGIN CERTIFICATE REQUEST" not in body["csr_pem"]:
            return 403, {"code": "join_refused"}
        self.join_tokens.remove(body["token"])
        self.tokens[f"node-{body['name']}"] = body["name"]
        return 201, {"host_id": body["name"], "node_token": f"node-{body['name']}", "broker_url": ""}


def handler_of(control: Control) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, answer = control.handle(token, self.path.removeprefix("/nodeapi/v1/"), body)
            if status == 0:
                self.close_connection = True
                return
            raw = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def address_string(self) -> str:
            return "node"

        def log_message(self, *args: object) -> None:
            return

    return Handler


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until `condition` holds; return how long that took. Fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)
    return time.monotonic() - began
