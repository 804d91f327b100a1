"""A throw-away PostgreSQL and Redis for tests, below `<state>/testdb`; started once, shared by later runs.

`python -m deploy.steps.testdb start` prints `export` lines for the shell; `stop` ends both and removes their files.
"""

from __future__ import annotations

import fcntl
import shutil
import sys

from deploy.steps.layout import Layout, SetupError
from deploy.steps.postgres import Postgres
from deploy.steps.redis import Redis

# Not secrets: the sockets are root's alone, and nothing of worth is behind them.
PASSWORD = "tests"
SECRET_KEY = "tests-only-secret-key-0123456789abcdefghijklmnopqrstuvwxyz"


def servers(layout: Layout) -> tuple[Postgres, Redis]:
    home = layout.state / "testdb"
    postgres = Postgres(home / "postgres", home / "pg", durable=False)
    return postgres, Redis(home / "redis", home / "doors" / "redis.sock", PASSWORD, durable=False)


def start(layout: Layout) -> dict[str, str]:
    """Ensure that both run and return the environment that tests need. Safe for several callers at once."""
    home = layout.state / "testdb"
    home.mkdir(parents=True, exist_ok=True)
    postgres, redis = servers(layout)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if postgres.ensure_initialised() and postgres.is_ready():
            postgres.stop_daemon()
        if not postgres.is_ready():
            postgres.start_daemon()
            postgres.wait_ready()
        postgres.ensure_database(may_create=True)
        if redis.ensure_configured():
            redis.stop_daemon()
        if not redis.is_ready():
            redis.start_daemon()
            redis.wait_ready()
    return {
        "CENOTE_DATABASE_URL": postgres.url(),
        "CENOTE_REDIS_URL": redis.url(),
        "CENOTE_SECRET_KEY": SECRET_KEY,
        "CENOTE_LAB": "1",
    }


def stop(layout: Layout) -> None:
    """End both servers and remove their files."""
    postgres, redis = servers(layout)
    postgres.stop_daemon()
    redis.stop_daemon()
    shutil.rmtree(layout.state / "testdb", ignore_errors=True)


def main() -> int:
    layout = Layout.from_env()
    try:
        if sys.argv[1:] == ["stop"]:
            stop(layout)
        elif sys.argv[1:] in ([], ["start"]):
            for name, value in start(layout).items():
                print(f"export {name}='{value}'")
        else:
            print("usage: deploy/testdb [start|stop]", file=sys.stderr)
            return 2
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
