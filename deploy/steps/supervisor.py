"""supervisord: one for the cloud, with a configuration file for each group, so that hosts come and go on their own."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.steps import orphans, service
from deploy.steps.files import write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import SetupError, run


@dataclass(frozen=True, slots=True)
class Program:
    """One process that is started again whenever it ends. `command` is split as a shell would; no shell runs it."""

    name: str
    command: str
    env: dict[str, str] = field(default_factory=dict)
    priority: int = 50
    stop_signal: str = "TERM"
    stop_seconds: int = 20
    directory: Path = REPO

    def section(self, log: Path) -> str:
        env = ",".join(f'{name}="{value.replace("%", "%%")}"' for name, value in self.env.items())
        return f"""[program:{self.name}]
command={self.command.replace("%", "%%")}
directory={self.directory}
environment={env}
priority={self.priority}
autostart=false
autorestart=true
startsecs=1
startretries=1000000
stopsignal={self.stop_signal}
stopwaitsecs={self.stop_seconds}
stopasgroup=false
killasgroup=false
redirect_stderr=true
stdout_logfile={log / (self.name + ".log")}
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=1
"""


class Supervisor:
    """Talks to the cloud's supervisord through its socket, which only root can reach."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._conf = place.state / "supervisord.conf"
        self._parts = place.state / "supervisor.d"

    def configure(self, group: str, programs: list[Program]) -> bool:
        """Write one group's programs (secrets in their environments: 0600). Return whether anything changed."""
        self._parts.mkdir(exist_ok=True, mode=0o700)
        text = "\n".join(program.section(self._place.log) for program in programs)
        return write(self._parts / f"{group}.conf", text, mode=0o600)

    def forget(self, group: str) -> None:
        """Take a group's configuration away; its programs have been stopped."""
        (self._parts / f"{group}.conf").unlink(missing_ok=True)
        if self.running():
            self._ctl("update")

    def ensure(self) -> None:
        """Run supervisord, and have it know the configuration as it is written now."""
        self._parts.mkdir(exist_ok=True, mode=0o700)
        socket = self._place.private / "supervisor.sock"
        write(
            self._conf,
            f"""[supervisord]
logfile={self._place.log / "supervisord.log"}
logfile_maxbytes=5MB
logfile_backups=1
pidfile={self._place.private / "supervisord.pid"}
childlogdir={self._place.log}
minfds=4096
umask=022

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}

[include]
files={self._parts}/*.conf
""",
            mode=0o600,
        )
        if not self.running():
            # Whatever a killed supervisor has left would keep sockets, ports and locks from those that come now.
            orphans.end(self._place)
            if service.has_systemd():
                service.start_supervisor(self._place)
            else:
                run(
                    self._place.venv / "bin" / "supervisord",
                    "-c",
                    self._conf,
                    env={"PATH": os.environ["PATH"], "HOME": "/root"},
                )
            deadline = time.monotonic() + 20
            while not self.running():
                if time.monotonic() > deadline:
                    raise SetupError(f"supervisord did not come up: see {self._place.log / 'supervisord.log'}")
                time.sleep(0.1)
        else:
            self._ctl("reread")

    def apply(self) -> None:
        """Have changed programs take their new configuration."""
        self._ctl("update")

    def running(self) -> bool:
        """Return whether supervisord answers."""
        done = self._raw("pid")
        return done.returncode == 0 and done.stdout.strip().isdecimal()

    def pid(self) -> int:
        return int(self._raw("pid").stdout.strip())

    def start(self, *names: str) -> None:
        """Start programs; those that run are left alone."""
        for name in names:
            done = self._raw("start", name)
            if done.returncode != 0 and "already started" not in done.stdout:
                raise SetupError(
                    f"{name} does not start: {done.stdout.strip()}; see {self._place.log / (name + '.log')}"
                )

    def stop(self, *names: str) -> None:
        for name in names:
            self._raw("stop", name)

    def restart(self, *names: str) -> None:
        self.stop(*names)
        self.start(*names)

    def status(self) -> dict[str, str]:
        """Return program -> state as supervisord has it."""
        lines = self._raw("status").stdout.splitlines()
        return {line.split()[0]: line.split()[1] for line in lines if len(line.split()) > 1}

    def pids(self) -> dict[str, int]:
        """Return program -> process id, of those that run."""
        found = {}
        for line in self._raw("status").stdout.splitlines():
            words = line.replace(",", " ").split()
            if len(words) > 3 and words[1] == "RUNNING" and words[2] == "pid":
                found[words[0]] = int(words[3])
        return found

    def shutdown(self) -> None:
        """End supervisord and all that it runs, or ran before it was killed; wait for it."""
        if not self.running():
            orphans.end(self._place)
            return
        pid = self.pid()
        self._ctl("shutdown")
        deadline = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > deadline:
                raise SetupError(f"supervisord ({pid}) does not end")
            time.sleep(0.2)

    def _raw(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._place.venv / "bin" / "supervisorctl"), "-c", str(self._conf), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def _ctl(self, *arguments: str) -> None:
        done = self._raw(*arguments)
        if done.returncode != 0 and "ERROR" in done.stdout:
            raise SetupError(f"supervisorctl {' '.join(arguments)}: {done.stdout.strip()}")
