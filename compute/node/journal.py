"""What this host has been ordered to do, on its own disk: the fencing token's keeper, and each call's answer.

A token is written before the call is begun, an answer before it is sent. So a call that comes again after a crash is
done again (ensure finishes it) or answered from here, and one that is older than the newest order for its target is
refused, whoever sends it and however late.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path

from compute.wire import Call, CallAnswer

KEEP_SECONDS = 7 * 24 * 3600


class StaleToken(Exception):
    """The call's token is below the newest one kept for its target."""


class Journal:
    """One SQLite file. Safe for many threads of one process."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        # FULL: a token that was lost with the power would let an old order in afterwards.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(
            """
            CREATE TABLE IF NOT EXISTS target (id TEXT PRIMARY KEY, token INTEGER NOT NULL, at REAL NOT NULL);
            CREATE TABLE IF NOT EXISTS call (
                id TEXT PRIMARY KEY, token INTEGER NOT NULL, answer TEXT, delivered INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL
            );
            """
        )

    def begin(self, call: Call) -> CallAnswer | None:
        """Note that a call begins; return its answer when it has ended before. Raises StaleToken."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                row = self._db.execute("SELECT token FROM target WHERE id = ?", (call.target_id,)).fetchone()
                if row is not None and call.token < row[0]:
                    raise StaleToken(f"token {call.token} is below {row[0]}")
                known = self._db.execute("SELECT answer FROM call WHERE id = ?", (call.id,)).fetchone()
                now = time.time()
                self._db.execute(
                    "INSERT INTO target VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET token = excluded.token, at = excluded.at",
                    (call.target_id, call.token, now),
                )
                if known is None:
                    self._db.execute("INSERT INTO call (id, token, at) VALUES (?, ?, ?)", (call.id, call.token, now))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        return CallAnswer.from_json(json.loads(known[0])) if known and known[0] else None

    def finish(self, answer: CallAnswer) -> None:
        """Keep the answer until it is delivered, and after."""
        with self._lock:
            self._db.execute("UPDATE call SET answer = ? WHERE id = ?", (json.dumps(answer.to_json()), answer.call_id))

    def delivered(self, call_id: str) -> None:
        with self._lock:
            self._db.execute("UPDATE call SET delivered = 1 WHERE id = ?", (call_id,))

    def undelivered(self) -> list[CallAnswer]:
        """Return answers that the control plane has not taken yet, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT answer FROM call WHERE answer IS NOT NULL AND NOT delivered ORDER BY at LIMIT 100"
            ).fetchall()
        return [CallAnswer.from_json(json.loads(row[0])) for row in rows]

    def prune(self) -> None:
        """Forget delivered calls of a week ago. Tokens stay: they are small, and a fence has no end."""
        with self._lock:
            self._db.execute("DELETE FROM call WHERE delivered AND at < ?", (time.time() - KEEP_SECONDS,))

    def close(self) -> None:
        with self._lock:
            self._db.close()
