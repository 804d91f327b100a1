"""What this host has been ordered to do, on its own disk: the fencing token's keeper, and each call's answer.

A token is written before the call is begun, an answer before it is sent. So a call that comes again is answered from
here, one that a dead worker left behind is answered as `unknown`, and one that is older than the newest order for its
target is refused, whoever sends it and however late.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from pathlib import Path

from compute.wire import Call, CallAnswer, CallError, WireError

log = logging.getLogger(__name__)
KEEP_SECONDS = 7 * 24 * 3600

_TABLES = """
CREATE TABLE IF NOT EXISTS target (id TEXT PRIMARY KEY, token INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS call (
    id TEXT PRIMARY KEY, token INTEGER NOT NULL, answer TEXT, delivered INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS call_undelivered ON call (at) WHERE NOT delivered;
"""


class StaleToken(Exception):
    """The call's token is below the newest one kept for its target."""


class JournalTaken(Exception):
    """Another node worker of this host is running: two would not see each other's calls in hand."""


class Journal:
    """One SQLite file, held by one process. Safe for its threads. Raises JournalTaken."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_fd = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The kernel drops it with the process, however that ends.
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            raise JournalTaken(f"{file} is held by another node worker") from None
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        # FULL: a token that was lost with the power would let an old order in afterwards.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_TABLES)

    def begin(self, call: Call) -> CallAnswer | None:
        """Note that a call begins; return its answer when it has ended before. Raises StaleToken."""
        with self._lock:
            known = self._db.execute("SELECT answer FROM call WHERE id = ? AND token = ?", (call.id, call.token))
            row = known.fetchone()
            if row is not None and row[0] is not None and (answer := _read(row[0])) is not None:
                return answer
            row = self._db.execute("SELECT token FROM target WHERE id = ?", (call.target_id,)).fetchone()
            if row is not None and call.token < row[0]:
                raise StaleToken(f"token {call.token} is below {row[0]}, the newest for {call.target_id}")
            now = time.time()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "INSERT INTO target VALUES (?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET token = max(token, excluded.token), at = excluded.at",
                    (call.target_id, call.token, now),
                )
                self._db.execute(
                    "INSERT INTO call (id, token, at) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE"
                    " SET token = excluded.token, at = excluded.at, answer = NULL, delivered = 0",
                    (call.id, call.token, now),
                )
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        return None

    def finish(self, answer: CallAnswer) -> None:
        """Keep the answer until it is delivered, and after."""
        with self._lock:
            self._db.execute(
                "UPDATE call SET answer = ?, delivered = 0 WHERE id = ? AND token = ?",
                (json.dumps(answer.to_json()), answer.call_id, answer.token),
            )

    def abandon(self) -> int:
        """At the start: end, as `unknown`, what a worker before this one began and did not finish. Return how many.

        The control plane then looks again at once, instead of waiting until the calls' leases run out.
        """
        with self._lock:
            rows = self._db.execute("SELECT id, token FROM call WHERE answer IS NULL").fetchall()
        for call_id, token in rows:
            error = CallError("worker_restarted", "the node worker died in the middle of the call")
            self.finish(CallAnswer(call_id, token, "unknown", error=error))
        return len(rows)

    def delivered(self, call_id: str) -> None:
        """Note that the control plane has the answer, or has no use for it."""
        with self._lock:
            self._db.execute("UPDATE call SET delivered = 1 WHERE id = ?", (call_id,))

    def undelivered(self, limit: int = 100) -> list[CallAnswer]:
        """Return answers that the control plane has not taken yet, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, answer FROM call WHERE answer IS NOT NULL AND NOT delivered ORDER BY at LIMIT ?", (limit,)
            ).fetchall()
        answers = []
        for call_id, text in rows:
            answer = _read(text)
            if answer is None:
                # Another release's, after a downgrade. Nobody can deliver it; its call is sent again when its lease ends.
                log.error("the kept answer to %s cannot be read, dropped", call_id)
                self.delivered(call_id)
            else:
                answers.append(answer)
        return answers

    def prune(self) -> None:
        """Forget calls of a week ago: no lease lives that long. Tokens stay: they are small, and a fence has no end."""
        with self._lock:
            self._db.execute("DELETE FROM call WHERE answer IS NOT NULL AND at < ?", (time.time() - KEEP_SECONDS,))

    def close(self) -> None:
        with self._lock:
            self._db.close()
            os.close(self._lock_fd)


def _read(text: str) -> CallAnswer | None:
    try:
        return CallAnswer.from_json(json.loads(text))
    except (WireError, ValueError):
        return None
