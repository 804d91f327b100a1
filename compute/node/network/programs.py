"""Running ip, bridge, nft and dnsmasq: argument lists only, a deadline on each, failures as driver errors."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from compute.node.drivers.base import Never, RetryLater, Unknown

DEADLINE_SECONDS = 10.0


def run(*arguments: str, stdin: str | None = None) -> str:
    """Run a program and return what it printed.

    Raises Never("program_missing"), RetryLater("network_command_failed"), Unknown("network_timeout").
    """
    try:
        done = subprocess.run(
            arguments,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise Never("program_missing", f"{arguments[0]} is not installed on this host")
    except subprocess.TimeoutExpired:
        raise Unknown("network_timeout", f"{' '.join(arguments)}: no end after {DEADLINE_SECONDS:.0f} s")
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[:2000]
        raise RetryLater("network_command_failed", f"{' '.join(arguments)}: exit {done.returncode}: {said}")
    return done.stdout


def ask(*arguments: str) -> list[dict[str, Any]]:
    """Run a program that answers in JSON (`ip -j`, `bridge -j`) and return the list it printed. Raises as `run`."""
    answer = run(*arguments)
    return [item for item in json.loads(answer or "[]") if item]  # ip prints {} for what its filter left out
