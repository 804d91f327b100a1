"""Writing files whole or not at all, and reading NAME=value files."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def write(file: Path, text: str, *, mode: int = 0o644) -> bool:
    """Write `file` unless it says so already; return whether it changed. A crash leaves the old one or the new one."""
    if file.exists() and file.read_text() == text and file.stat().st_mode & 0o777 == mode:
        return False
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    partial.chmod(mode)
    partial.rename(file)
    return True


def read_env(file: Path) -> dict[str, str]:
    """Return the variables of a NAME=value file, as a shell would read it; {} when there is none."""
    if not file.exists():
        return {}
    found = {}
    for line in file.read_text().splitlines():
        name, sign, value = line.partition("=")
        if sign and not name.startswith("#"):
            found[name.strip()] = "".join(shlex.split(value))
    return found


def env_text(values: dict[str, str]) -> str:
    """Return the text of a NAME=value file that a shell can source."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
