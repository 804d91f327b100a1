"""A private Redis: one unix socket and no TCP, users by ACL file, nothing evicted, appended to disk each second."""

from __future__ import annotations

import pwd
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from deploy.steps.layout import SetupError, write_if_changed

HOME = Path("/var/lib/redis")  # made by Debian's package
READY_SECONDS = 20.0
# The server gives root up, and may be unable to pass a checkout's parents: see deploy/steps/postgres.py.
_ENTER = (
    'cd /; mount --bind "$1" "$3" && mount --bind "$2" "$3/socket" && shift 3 && '
    'exec setpriv --reuid=redis --regid=redis --init-groups --no-new-privs -- "$@"'
)


@dataclass(frozen=True, slots=True)
class Redis:
    """One private server. The control plane is the user `default` with a password; hosts' users are added at run time."""

    home: Path
    socket: Path
    password: str
    durable: bool = True

    def server_command(self) -> list[str]:
        enter = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _ENTER, "sh"]
        arguments = [str(self.home), str(self.socket.parent), str(HOME)]
        return [*enter, *arguments, "redis-server", str(HOME / "redis.conf")]

    def url(self) -> str:
        return f"redis+socket://:{self.password}@{self.socket}"

    def ensure_configured(self) -> bool:
        """Write the configuration. Return whether a running server has to be restarted."""
        try:
            user = pwd.getpwnam("redis")
        except KeyError:
            raise SetupError("The user redis is missing: Debian's package redis-server makes it.")
        for path in (self.home, self.home / "socket"):
            path.mkdir(parents=True, exist_ok=True)
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        changed = write_if_changed(self.home / "redis.conf", self._configuration(), mode=0o640)
        # The file is the server's own from then on (ACL SAVE); only the control plane's line is ours.
        users = self.home / "users.acl"
        line = f"user default on >{self.password} ~* &* +@all"
        if not users.exists():
            changed |= write_if_changed(users, line + "\n", mode=0o600)
        for path in (self.home, self.home / "redis.conf", users):
            shutil.chown(path, user.pw_uid, user.pw_gid)
        self.home.chmod(0o700)
        # Sockets are made in there by the web process (root) and by Redis.
        shutil.chown(self.socket.parent, 0, user.pw_gid)
        self.socket.parent.chmod(0o775)
        return changed

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), password=self.password, socket_timeout=3)

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the server answers. Raises SetupError."""
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise SetupError(f"Redis did not answer on {self.socket} within {seconds:.0f} s.")
            time.sleep(0.05)

    def start_daemon(self) -> None:
        """Start the server in the background (tests; a cloud's is kept by its supervisor)."""
        command = [*self.server_command(), "--daemonize", "yes"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            raise SetupError(f"redis-server failed: {(done.stderr or done.stdout).strip()[-500:]}")

    def stop_daemon(self) -> None:
        """Stop a server that `start_daemon` started; none running is no error."""
        try:
            with self.client() as client:
                client.shutdown(nosave=True, force=True)
        except redis.RedisError:
            return

    def _configuration(self) -> str:
        lines = [
            "# Written by deploy; changes here are overwritten.",
            "port 0",
            f"unixsocket {HOME}/socket/{self.socket.name}",
            "unixsocketperm 700",
            f"dir {HOME}",
            f"aclfile {HOME}/users.acl",
            "maxmemory 128mb",
            # A broker that forgets keys under pressure loses bindings and queues.
            "maxmemory-policy noeviction",
            f"appendonly {'yes' if self.durable else 'no'}",
            "appendfsync everysec",
            'save ""',
            "maxclients 1000",
            "databases 1",
        ]
        return "\n".join(lines) + "\n"
