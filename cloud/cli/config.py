"""Where the cloud is, and as whom to speak to it: contexts in a private file, or the environment.

`--context` comes first, then the environment (CENOTE_URL, CENOTE_TOKEN, CENOTE_OPERATOR_TOKEN, CENOTE_SSH_KEY,
CENOTE_SSH_PROXY), then the current context.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cloud.cli.errors import USAGE, CliError


@dataclass(frozen=True, slots=True)
class Context:
    """One cloud and one identity. `ssh_proxy`: a shell command with %h and %p, as ssh's ProxyCommand takes it."""

    url: str = ""
    token: str = ""
    operator_token: str = ""
    ssh_key: str = ""
    ssh_proxy: str = ""


_VARIABLES = {
    "url": "CENOTE_URL",
    "token": "CENOTE_TOKEN",
    "operator_token": "CENOTE_OPERATOR_TOKEN",
    "ssh_key": "CENOTE_SSH_KEY",
    "ssh_proxy": "CENOTE_SSH_PROXY",
}


def folder() -> Path:
    """The directory of the CLI's own files."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "cenote"


def load() -> tuple[str, dict[str, Context]]:
    """The current context's name ("" for none) and all contexts. Raises CliError for a file that cannot be read."""
    file = folder() / "config.json"
    if not file.exists():
        return "", {}
    names = {field.name for field in fields(Context)}
    try:
        data: dict[str, Any] = json.loads(file.read_text())
        contexts = {
            name: Context(**{key: str(value) for key, value in saved.items() if key in names})
            for name, saved in data["contexts"].items()
        }
        return str(data.get("current", "")), contexts
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CliError(f"{file} cannot be read: {error}", USAGE)


def save(current: str, contexts: Mapping[str, Context]) -> None:
    """Replace the file at once; it holds secrets, so nobody else may read it, not even while it is written."""
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder() / "config.json.partial"
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        json.dump(
            {"current": current, "contexts": {name: asdict(item) for name, item in contexts.items()}}, stream, indent=2
        )
    partial.rename(folder() / "config.json")


def chosen(name: str | None) -> Context:
    """The context to use. Raises CliError where `name` is none, or where nothing says which cloud is meant."""
    current, contexts = load()
    if name is not None:
        if name not in contexts:
            raise CliError(f"there is no context {name}; known: {', '.join(sorted(contexts)) or 'none'}", USAGE)
        return contexts[name]
    given = {field: os.environ[variable] for field, variable in _VARIABLES.items() if os.environ.get(variable)}
    # Another cloud's token must not be sent to a URL from the environment: a context is taken whole or not at all.
    base = Context() if "url" in given else contexts.get(current, Context())
    merged = Context(**{**asdict(base), **given})
    if not merged.url:
        raise CliError("which cloud? Run `cenote login`, or set CENOTE_URL and CENOTE_TOKEN", USAGE)
    return merged
