"""The control plane: its secrets, its private PostgreSQL and Redis, and its processes under one supervisor."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from compute import pki
from deploy.steps.files import env_text, read_env, write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import SetupError, run
from deploy.steps.supervisor import Program, Supervisor

DOOR = "CENOTE_DOOR_LISTEN"
HOST_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
CONTROL = ("postgres", "redis", "web", "worker", "relay", "beat")


def make_secrets(place: Place) -> dict[str, str]:
    """Return the control plane's environment, made once and kept in cloud.env (0600)."""
    file = place.state / "cloud.env"
    known = read_env(file)
    database_password = known.get("CENOTE_DATABASE_PASSWORD") or secrets.token_urlsafe(24)
    broker_password = known.get("CENOTE_BROKER_PASSWORD") or secrets.token_urlsafe(24)
    # An address that somebody gave the cloud stays; its own follows the port.
    own_url = known.get("CENOTE_URL", "http://127.0.0.1:").startswith("http://127.0.0.1:")
    values = {
        "CENOTE_SECRET_KEY": known.get("CENOTE_SECRET_KEY") or secrets.token_urlsafe(48),
        "CENOTE_DATABASE_PASSWORD": database_password,
        "CENOTE_BROKER_PASSWORD": broker_password,
        "CENOTE_DATABASE_URL": f"postgres://cenote:{database_password}@/{place.private / 'postgres'}/cenote",
        "CENOTE_REDIS_URL": f"redis+socket://control:{broker_password}@{place.doors / 'redis.sock'}",
        "CENOTE_NODE_BROKER_URL": "redis+socket://{user}:{password}@" + str(place.doors / "redis.sock"),
        "CENOTE_URL": place.url if own_url else known["CENOTE_URL"],
        "CENOTE_ALLOWED_HOSTS": known.get("CENOTE_ALLOWED_HOSTS") or "127.0.0.1,localhost,nodeapi",
        "CENOTE_STATE_DIR": str(place.state),
        "CENOTE_LAB": known.get("CENOTE_LAB") or "1",
    }
    # What an operator has added (a log level, a door) stays.
    values |= {name: value for name, value in known.items() if name not in values}
    write(file, env_text(values), mode=0o600)
    pki.make_ca(place.state / "ca")
    return values


def set_door(place: Place, listen: str, known_as: Sequence[str] = ()) -> None:
    """Open a TLS door at `listen` (ADDRESS:PORT) with a certificate of the cloud's own authority; "" closes it.

    `known_as`: further addresses and DNS names by which machines reach it, such as those of a router in between.
    """
    values = make_secrets(place)
    addresses, names = [], []
    if listen:
        address, _, port = listen.rpartition(":")
        if not _is_address(address) or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise SetupError(f"--listen is an IP address and a port, not {listen!r}")
        addresses = [address, *(each for each in known_as if _is_address(each))]
        names = [each for each in known_as if each not in addresses]
        if wrong := [each for each in names if not re.fullmatch(HOST_NAME, each)]:
            raise SetupError(f"--known-as is an address or a name, not {wrong[0]!r}")
        key, request = pki.make_request("cenote")
        signed = pki.sign_csr(
            ca_dir=place.state / "ca", csr_pem=request, name="cenote", addresses=addresses, other_names=names
        )
        write(place.state / "ca" / "door.key", key.decode(), mode=0o600)
        write(place.state / "ca" / "door.pem", signed, mode=0o644)
    values[DOOR] = listen
    hosts = values["CENOTE_ALLOWED_HOSTS"].split(",")
    values["CENOTE_ALLOWED_HOSTS"] = ",".join(dict.fromkeys([*hosts, *addresses, *names]))
    write(place.state / "cloud.env", env_text(values), mode=0o600)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def environment(place: Place) -> dict[str, str]:
    """Return the environment of the control plane's processes and of `manage.py`."""
    return {
        "PATH": f"{place.venv / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPO),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DJANGO_SETTINGS_MODULE": "cloud.settings",
        **read_env(place.state / "cloud.env"),
    }


def manage(place: Place, *arguments: str, timeout: float = 120.0) -> str:
    """Run a management command and return what it prints."""
    return run(place.venv / "bin" / "python", REPO / "manage.py", *arguments, env=environment(place), timeout=timeout)


def _postgres_bin() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        raise SetupError("PostgreSQL is not installed (package postgresql-15)")
    return found[-1]


def as_postgres(*command: str | Path, stdin: str | None = None, timeout: float = 120.0) -> str:
    """Run as the user postgres, wherever the checkout lies."""
    return run(REPO / "deploy" / "as-postgres", *command, stdin=stdin, timeout=timeout)


def make_database(place: Place) -> None:
    """Make the cluster: reached through a socket in a closed directory, and by password only. Durable as shipped."""
    data, sockets = place.state / "postgres", place.private / "postgres"
    if not (data / "made").exists():
        # Without the mark the last try was cut off before anything of value was in it.
        run("rm", "-rf", data)
        run("install", "-d", "-m", "0700", "-o", "postgres", "-g", "postgres", data)
        as_postgres(
            *(_postgres_bin() / "initdb", "-D", data, "-U", "postgres", "--auth=peer", "--encoding=UTF8"),
            "--locale=C.UTF-8",
        )
        # The superuser is whoever is postgres on this machine; the cloud's own role comes in by password.
        write(data / "pg_hba.conf", "local all postgres peer\nlocal all all scram-sha-256\n", mode=0o644)
        (data / "made").touch()
    run("install", "-d", "-m", "0700", "-o", "postgres", "-g", "postgres", sockets)
    settings = f"""# Written by deploy/up.
listen_addresses = ''
unix_socket_directories = '{sockets}'
max_connections = 140
shared_buffers = 64MB
work_mem = 4MB
maintenance_work_mem = 32MB
wal_compression = on
max_wal_size = 256MB
log_min_messages = warning
log_timezone = 'UTC'
timezone = 'UTC'
"""
    write(data / "conf.cenote", settings, mode=0o644)
    main = data / "postgresql.conf"
    if "conf.cenote" not in main.read_text():
        with main.open("a") as stream:
            stream.write("include 'conf.cenote'\n")


def make_broker(place: Place, password: str) -> None:
    """Write Redis' configuration: a socket, no port, a default user that may do nothing, append-only file, no eviction."""
    folder = place.state / "redis"
    folder.mkdir(exist_ok=True, mode=0o700)
    # Hosts' users are set by the control plane while Redis runs, and again after any loss: they need no file.
    write(folder / "users.acl", f"user default off\nuser control on >{password} ~* &* +@all\n", mode=0o600)
    write(
        folder / "redis.conf",
        f"""# Written by deploy/up.
port 0
unixsocket {place.doors / "redis.sock"}
unixsocketperm 777
aclfile {folder / "users.acl"}
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory 256mb
maxmemory-policy noeviction
daemonize no
""",
        mode=0o600,
    )


def programs(place: Place) -> list[Program]:
    """Return the control plane's processes, in the order in which they come up."""
    env = environment(place)
    python = place.venv / "bin" / "python"
    celery = f"{python} -m celery -A cloud.celery"
    gunicorn = (
        f"{python} -m gunicorn cloud.wsgi --worker-class gthread --workers 2 --threads 24 --timeout 90 --keep-alive 75"
        f" --bind 127.0.0.1:{place.port} --bind unix:{place.doors / 'web.sock'} --preload --max-requests 0"
        " --forwarded-allow-ips '' --worker-tmp-dir /dev/shm"
    )
    found = [
        Program(
            "postgres",
            f"{REPO}/deploy/as-postgres {_postgres_bin()}/postgres -D {place.state / 'postgres'}",
            env,
            priority=10,
            stop_signal="INT",
        ),
        Program("redis", f"redis-server {place.state / 'redis' / 'redis.conf'}", env, priority=10),
        Program("web", gunicorn, env, priority=20),
        Program(
            "worker",
            f"{celery} worker --pool threads --concurrency 8 -Q control --loglevel WARNING"
            " --without-gossip --without-mingle --without-heartbeat",
            env,
            priority=20,
        ),
        Program("relay", f"{python} {REPO}/manage.py relay_run", env, priority=20),
        Program(
            "beat", f"{celery} beat --loglevel WARNING --schedule {place.private / 'beat'} --pidfile=", env, priority=20
        ),
    ]
    if env.get(DOOR):
        # A process of its own, because gunicorn speaks TLS at all of its addresses or at none.
        found.append(
            Program(
                "door",
                f"{python} -m gunicorn cloud.wsgi --worker-class gthread --workers 1 --threads 24 --timeout 90"
                f" --keep-alive 75 --bind {env[DOOR]} --certfile {place.state / 'ca' / 'door.pem'}"
                f" --keyfile {place.state / 'ca' / 'door.key'} --forwarded-allow-ips '' --worker-tmp-dir /dev/shm",
                env,
                priority=21,
            )
        )
    return found


def start_stores(place: Place, supervisor: Supervisor) -> None:
    """Start PostgreSQL and Redis, and wait until both answer."""
    supervisor.start("postgres", "redis")
    _wait(lambda: (place.private / "postgres" / ".s.PGSQL.5432").exists(), 60, "PostgreSQL", place.log / "postgres.log")
    _wait(lambda: _answers(place.doors / "redis.sock"), 30, "Redis", place.log / "redis.log")
    password = read_env(place.state / "cloud.env")["CENOTE_DATABASE_PASSWORD"]
    deadline = time.monotonic() + 60
    while not _opens(place, password):
        try:
            _make_role(place, password)
        except SetupError:
            # Recovery after a crash takes a moment; the socket is there before it ends.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def _opens(place: Place, password: str) -> bool:
    """Return whether the cloud's role gets into its database."""
    try:
        run(
            *("psql", "-qAt", "-h", place.private / "postgres", "-U", "cenote", "-d", "cenote", "-c", "SELECT 1"),
            env={"PGPASSWORD": password, "PATH": os.environ["PATH"]},
        )
    except SetupError:
        return False
    return True


def _make_role(place: Place, password: str) -> None:
    """Make the cloud's role, which is no superuser (an injection must reach neither files nor programs), and its database."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", password):
        raise SetupError("CENOTE_DATABASE_PASSWORD in cloud.env may hold letters, digits, - and _ only.")
    as_postgres(
        *(
            "psql",
            "-qAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            place.private / "postgres",
            "-U",
            "postgres",
            "-d",
            "postgres",
        ),
        # On standard input: arguments are for all to see.
        stdin=f"""SELECT 'CREATE ROLE cenote LOGIN' WHERE NOT EXISTS
    (SELECT 1 FROM pg_roles WHERE rolname = 'cenote') \\gexec
ALTER ROLE cenote PASSWORD '{password}';
SELECT 'CREATE DATABASE cenote OWNER cenote' WHERE NOT EXISTS
    (SELECT 1 FROM pg_database WHERE datname = 'cenote') \\gexec
""",
    )


def start_services(place: Place, supervisor: Supervisor, *, fresh: bool) -> None:
    """Start web, worker, relay and beat; restart them when `fresh` code or settings ask for it. Wait until ready."""
    if supervisor.status().get("web") != "RUNNING" and _taken(place.port):
        raise SetupError(f"Another program has port {place.port} of 127.0.0.1: choose one with CENOTE_PORT.")
    names = ["web", "worker", "relay", "beat", *(["door"] if environment(place).get(DOOR) else [])]
    if fresh:
        supervisor.restart(*names)
    else:
        supervisor.start(*names)
    _wait(lambda: _ready(place), 90, "the web process", place.log / "web.log")


def _ready(place: Place) -> bool:
    """Ask through the cloud's own socket: at the port another cloud of this machine might answer."""
    try:
        transport = httpx.HTTPTransport(uds=str(place.doors / "web.sock"))
        with httpx.Client(transport=transport, base_url="http://nodeapi", timeout=5) as client:
            return bool(client.get("/health/ready").json().get("status") == "ok")
    except (httpx.HTTPError, ValueError):
        return False


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(str(path))
            return True
    except OSError:
        return False


def _wait(true: Callable[[], bool], seconds: float, what: str, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-1500:] if log.exists() else "(no log)"
            raise SetupError(f"{what} did not come up in {seconds:.0f} s; the end of {log}:\n{tail}")
        time.sleep(0.1)
