"""A PostgreSQL of its own for a benchmark, durable as the deployed one: fsync, synchronous_commit and full_page_writes on."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

# As `deploy/steps/control.py` writes them; durability is PostgreSQL's own default and is asked for again below.
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{socket}'
max_connections = 140
shared_buffers = 64MB
work_mem = 4MB
maintenance_work_mem = 32MB
wal_compression = on
max_wal_size = 256MB
log_min_messages = warning
fsync = on
synchronous_commit = on
full_page_writes = on
"""


@contextmanager
def durable_postgres() -> Iterator[dict[str, str]]:
    """Start one below the checkout's `var` (a real disk), yield the environment that Django wants, and remove it."""
    (REPO / "var").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=REPO / "var"))
    folder.chmod(0o711)
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))

    def run(program: str, *words: str) -> None:
        subprocess.run(
            [REPO / "deploy" / "as-postgres", programs / program, *words], check=True, stdout=subprocess.DEVNULL
        )

    for name in ("data", "socket"):
        (folder / name).mkdir(mode=0o700 if name == "data" else 0o755)
        shutil.chown(folder / name, "postgres", "postgres")
    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
    with (folder / "data" / "postgresql.conf").open("a") as stream:
        stream.write(_SETTINGS.format(socket=folder / "socket"))
    run("pg_ctl", "start", "-w", "-D", data, "-l", f"{data}/log")
    try:
        run("createdb", "-h", str(folder / "socket"), "-U", "postgres", "cenote")
        yield {
            **os.environ,
            "CENOTE_DATABASE_URL": f"postgres://postgres@/{folder / 'socket'}/cenote",
            "CENOTE_SECRET_KEY": secrets.token_urlsafe(48),
            "CENOTE_REDIS_URL": "redis+socket:///nowhere",
            "CENOTE_NODE_BROKER_URL": "redis+socket:///nowhere",
            "CENOTE_LAB": "1",
            "DJANGO_SETTINGS_MODULE": "cloud.settings",
            "CENOTE_BENCH_POSTGRES": data,
        }
    finally:
        run("pg_ctl", "stop", "-D", data, "-m", "immediate")
        shutil.rmtree(folder)
