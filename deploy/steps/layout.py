"""Where things are: one object that knows every path of one cloud's state directory."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SOCKET_PATH_LIMIT = 107  # bytes the kernel keeps of a unix socket's path, without the closing zero


class SetupError(Exception):
    """Set-up cannot go on. The message says what is wrong and what would mend it; it is all that the user sees."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one cloud, all below `state`. `venv` may lie elsewhere: several clouds can share one."""

    state: Path
    venv: Path

    @classmethod
    def from_env(cls) -> Layout:
        """Read CENOTE_STATE_DIR and CENOTE_VENV; the defaults are `var` and `var/venv` in the repository."""
        state = Path(os.environ.get("CENOTE_STATE_DIR") or REPOSITORY / "var").absolute()
        venv = Path(os.environ.get("CENOTE_VENV") or Path(sys.prefix)).absolute()
        return cls(state, venv)

    @property
    def cloud_id(self) -> str:
        """Four hex digits that keep this cloud's devices, groups and processes apart from another one's."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:4]

    @property
    def private(self) -> Path:
        """Sockets of the control plane alone; never visible inside a lab host."""
        return self.state / "run" / "private"

    @property
    def doors(self) -> Path:
        """The two sockets that a lab host may knock at."""
        return self.state / "run" / "doors"

    @property
    def web_socket(self) -> Path:
        return self.doors / "web.sock"

    @property
    def redis_socket(self) -> Path:
        return self.doors / "redis.sock"

    @property
    def postgres_socket_dir(self) -> Path:
        return self.private / "postgres"

    @property
    def supervisor_socket(self) -> Path:
        return self.private / "supervisor.sock"

    @property
    def supervisor_dir(self) -> Path:
        return self.state / "supervisor"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def ca(self) -> Path:
        return self.state / "ca"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def shared(self) -> Path:
        return self.state / "shared"

    @property
    def lab(self) -> Path:
        return self.state / "lab"

    @property
    def cloud_env(self) -> Path:
        return self.state / "cloud.env"

    @property
    def demo_env(self) -> Path:
        return self.state / "demo.env"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def make_directories(self) -> None:
        """Make the directories that every cloud has, with the modes that keep secrets in. Raises SetupError."""
        longest = self.private / "postgres" / ".s.PGSQL.5432"
        if len(str(longest).encode()) > SOCKET_PATH_LIMIT:
            raise SetupError(
                f"The path {longest} is too long for a unix socket ({SOCKET_PATH_LIMIT} bytes at most). "
                "Set CENOTE_STATE_DIR to a directory with a shorter path."
            )
        self.state.mkdir(parents=True, exist_ok=True)
        for path in (self.state / "run", self.logs, self.images, self.lab, self.supervisor_dir):
            path.mkdir(exist_ok=True, mode=0o755)
        for path in (self.private, self.ca):
            path.mkdir(exist_ok=True, mode=0o700)
            path.chmod(0o700)
        self.doors.mkdir(exist_ok=True, mode=0o755)
        # Guests' files are found by ids that nobody else knows, but a shifted root has to pass to reach its own tree.
        self.shared.mkdir(exist_ok=True, mode=0o711)
        self.shared.chmod(0o711)


def write_private(path: Path, text: str) -> None:
    """Write a file that root alone reads, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_if_changed(path: Path, text: str, *, mode: int = 0o644) -> bool:
    """Write `text` whole or not at all, and only where it differs. Return whether the file changed."""
    if path.is_file() and path.read_text() == text and (path.stat().st_mode & 0o777) == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    partial.replace(path)
    return True
