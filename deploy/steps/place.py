"""Where everything of one cloud lies, and what it is called."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DEFAULT_PORT = 8470


@dataclass(frozen=True, slots=True)
class Place:
    """One cloud's directories. Several clouds may run on one machine: names of namespaces carry `cloud_id`."""

    state: Path
    venv: Path
    port: int

    @classmethod
    def here(cls) -> Place:
        """Return the place that the environment names: CENOTE_STATE_DIR, CENOTE_VENV, CENOTE_PORT."""
        state = Path(os.environ.get("CENOTE_STATE_DIR") or REPO / "var").absolute()
        venv = Path(os.environ.get("CENOTE_VENV") or state / "venv").absolute()
        kept = state / "port"
        port = os.environ.get("CENOTE_PORT") or (kept.read_text().strip() if kept.exists() else str(DEFAULT_PORT))
        return cls(state=state, venv=venv, port=int(port))

    @property
    def cloud_id(self) -> str:
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:4]

    @property
    def private(self) -> Path:
        """Sockets that no lab host may see."""
        return self.state / "run" / "private"

    @property
    def doors(self) -> Path:
        """The two sockets that lab hosts see: the web's and the broker's."""
        return self.state / "run" / "doors"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def shared(self) -> Path:
        return self.state / "shared"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lab(self, host: str) -> Path:
        return self.state / "lab" / host

    def make(self) -> None:
        """Make the directories. The state itself is open to look through; what is secret below it is closed."""
        self.state.mkdir(parents=True, exist_ok=True)
        for folder, mode in (
            (self.state / "run", 0o755),
            (self.private, 0o700),
            (self.doors, 0o700),
            (self.log, 0o700),
            (self.shared, 0o711),
            (self.shared / "images", 0o711),
            (self.shared / "instances", 0o711),
            (self.images, 0o755),
            (self.state / "lab", 0o700),
        ):
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
        (self.state / "port").write_text(f"{self.port}\n")
