"""A private PostgreSQL: its own data directory, a unix socket and no TCP; durable for a cloud, fast for tests.

The server runs as the system's user `postgres`, who may be unable to reach the state directory (a checkout below /root).
So it runs in a mount namespace of its own in which the two directories that it needs are bound to a place it can reach;
the socket is the same file, whichever path leads to it.
"""

from __future__ import annotations

import pwd
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.steps.layout import SetupError, write_if_changed

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
HOME = Path("/var/lib/postgresql")  # made by Debian's package, passable for all
READY_SECONDS = 60.0
# mount: the two binds vanish with the server; nothing of them is seen outside.
_ENTER = (
    'cd /; mount --bind "$1" "$3" && mount --bind "$2" "$3/socket" && shift 3 && '
    'exec setpriv --reuid=postgres --regid=postgres --init-groups --no-new-privs -- "$@"'
)
_HBA = "local all all peer map=cenote\n"
_IDENT = "cenote root postgres\ncenote root cenote\ncenote postgres postgres\n"


@dataclass(frozen=True, slots=True)
class Postgres:
    """One private server. `home` holds the data, `socket_dir` the socket (may be elsewhere, on a short path)."""

    home: Path
    socket_dir: Path
    durable: bool = True

    def command(self, *argv: str) -> list[str]:
        """Return the command that runs `argv` as the server's user, where its directories are to be found."""
        enter = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _ENTER, "sh"]
        return [*enter, str(self.home), str(self.socket_dir), str(HOME), *argv]

    def server_command(self) -> list[str]:
        return self.command(str(PROGRAMS / "postgres"), "-D", str(HOME / "data"))

    def url(self, database: str = "cenote", role: str = "cenote") -> str:
        return f"postgres://{role}@//{self.socket_dir}/{database}"

    def ensure_initialised(self) -> bool:
        """Ensure a data directory with the wanted configuration. Return whether a running server has to be restarted."""
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            raise SetupError("The user postgres is missing: Debian's package postgresql-15 makes it.")
        self.home.mkdir(parents=True, exist_ok=True)
        for path in (self.home, self.home / "socket", self.socket_dir):
            path.mkdir(exist_ok=True, parents=True)
            shutil.chown(path, user.pw_uid, user.pw_gid)
            path.chmod(0o700)
        if not (self.home / "data" / "PG_VERSION").exists():
            # initdb killed half-way leaves a directory that it refuses to go on in: what is whole gets its name last.
            shutil.rmtree(self.home / "data.new", ignore_errors=True)
            self._run(
                *(str(PROGRAMS / "initdb"), "-D", str(HOME / "data.new"), "-U", "postgres", "-A", "peer"),
                *("--encoding=UTF8", "--locale=C.UTF-8", *([] if self.durable else ["--no-sync"])),
            )
            (self.home / "data.new").rename(self.home / "data")
        data = self.home / "data"
        changed = write_if_changed(data / "pg_hba.conf", _HBA, mode=0o644)
        changed |= write_if_changed(data / "pg_ident.conf", _IDENT, mode=0o644)
        changed |= write_if_changed(data / "postgresql.conf", self._configuration(), mode=0o644)
        return changed

    def is_ready(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the server answers. Raises SetupError."""
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise SetupError(f"PostgreSQL did not answer on {self.socket_dir} within {seconds:.0f} s.")
            time.sleep(0.1)

    def connect(self, database: str = "postgres", role: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.socket_dir), dbname=database, user=role, connect_timeout=3, autocommit=True
        )

    def ensure_database(self, name: str = "cenote", role: str = "cenote", *, may_create: bool = False) -> None:
        """Ensure the role (no superuser: an injection must not reach files) and its database."""
        with self.connect() as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            if may_create:
                connection.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(role)))
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                connection.execute(statement.format(sql.Identifier(name), sql.Identifier(role)))

    def start_daemon(self) -> None:
        """Start the server in the background (tests; a cloud's is kept by its supervisor). Raises SetupError."""
        log = str(HOME / "log")
        self._run(str(PROGRAMS / "pg_ctl"), "-D", str(HOME / "data"), "-l", log, "-s", "-w", "-t", "60", "start")

    def stop_daemon(self) -> None:
        """Stop a server that `start_daemon` started; none running is no error."""
        if (self.home / "data" / "postmaster.pid").exists():
            command = self.command(
                str(PROGRAMS / "pg_ctl"), "-D", str(HOME / "data"), "-s", "-w", "-m", "fast", "stop"
            )
            subprocess.run(command, check=False, capture_output=True, timeout=90)

    def _run(self, *argv: str) -> None:
        done = subprocess.run(self.command(*argv), check=False, capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            raise SetupError(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout).strip()[-800:]}")

    def _configuration(self) -> str:
        lines = {
            "listen_addresses": "''",
            "unix_socket_directories": f"'{HOME}/socket'",
            "unix_socket_permissions": "0700",
            "max_connections": "120",
            "shared_buffers": "64MB",
            "work_mem": "4MB",
            "maintenance_work_mem": "32MB",
            "effective_cache_size": "512MB",
            "max_wal_size": "512MB",
            "min_wal_size": "64MB",
            "wal_level": "minimal" if not self.durable else "replica",
            "max_wal_senders": "0",
            "max_worker_processes": "4",
            "max_parallel_workers_per_gather": "0",
            "jit": "off",
            "timezone": "'UTC'",
            "log_timezone": "'UTC'",
            "log_min_duration_statement": "2000",
            "log_line_prefix": "'%m [%p] %q%u@%d '",
        }
        if not self.durable:
            lines |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "on"}
        return "# Written by deploy; changes here are overwritten.\n" + "".join(
            f"{name} = {value}\n" for name, value in lines.items()
        )
