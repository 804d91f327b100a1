"""`deploy/test`, after the packages: checks, fast tests, and with a lab the rest. Ends with the first failure's code."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from deploy.steps.lock import only_one
from deploy.steps.place import REPO, Place
from deploy.steps.progress import SetupError

CODE = ("cloud", "compute", "tenants", "deploy", "tests", "manage.py")
# What needs nothing but a database and a broker.
FAST = "not lab and not browser and not faults and not cloud and not long"
TEST_CLOUD_PORT = "8471"
FULL_COUNTS = {"CENOTE_LONG": "1", "CENOTE_TEST_EXAMPLES": "1000"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/test", description="Run the checks and the tests.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--fast", action="store_true", help="no lab, no browser")
    kind.add_argument("--long", action="store_true", help="the full counts")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="after --: arguments for pytest, which then runs alone")
    options = parser.parse_args()
    rest = options.rest[1:] if options.rest[:1] == ["--"] else options.rest
    place = Place.here()
    try:
        with only_one(place, "test"):
            if rest:
                return _pytest(_environment(place), *rest)
            return _whole(place, fast=options.fast, long=options.long)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1


def _whole(place: Place, *, fast: bool, long: bool) -> int:
    began = time.monotonic()
    # A run that was killed may have left processes with sessions on the test databases: they cannot be dropped then.
    subprocess.run([REPO / "deploy" / "testdb", "stop"], check=True)
    env = _environment(place)
    if long:
        env |= FULL_COUNTS
    patience = ("--timeout", "1800") if long else ()
    code = _checks(env) or _pytest(env, "-m", FAST, "-n", "2", "--dist", "loadfile", *patience)
    if code == 0 and not fast:
        code = _with_lab(place, env, long=long)
    print(f"deploy/test: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return code


def _environment(place: Place) -> dict[str, str]:
    """Return the environment of tests: a throw-away PostgreSQL and Redis, started where they do not run."""
    said = subprocess.run([REPO / "deploy" / "testdb"], check=True, capture_output=True, text=True).stdout
    env = {**os.environ, "PYTHONPATH": str(REPO), "CENOTE_STATE_DIR": str(place.state)}
    for line in said.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        env[name] = shlex.split(value)[0]
    env["PATH"] = f"{place.venv / 'bin'}:{os.environ['PATH']}"
    return env


def _checks(env: dict[str, str]) -> int:
    """Run the linters; all of them, so that one run tells everything."""
    failed = 0
    for title, command in (
        ("ruff", ["ruff", "check", "--quiet", *CODE]),
        ("ruff format", ["ruff", "format", "--quiet", "--check", *CODE]),
        ("mypy", ["mypy", "--no-error-summary", "cloud", "compute", "tenants", "deploy"]),
        ("import contracts", ["lint-imports", "--no-cache"]),
        ("migrations", ["python", "manage.py", "makemigrations", "--check", "--dry-run", "-v", "0"]),
    ):
        began = time.monotonic()
        done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)
        verdict = "ok" if done.returncode == 0 else "FAILED"
        print(f"check: {title} {verdict} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
        if done.returncode:
            print((done.stdout + done.stderr)[-6000:], file=sys.stderr)
            failed = 1
    return failed


def _pytest(env: dict[str, str], *arguments: str) -> int:
    return subprocess.run(["pytest", "-q", *arguments], cwd=REPO, env=env, check=False).returncode


def _with_lab(place: Place, env: dict[str, str], *, long: bool) -> int:
    """Run what needs real hypervisors and browsers; then bring up a throw-away cloud for what needs a whole one."""
    unwanted = "" if long else " and not long"
    code = _pytest(env, "-m", f"(lab or browser or faults) and not cloud{unwanted}", "--timeout", "600")
    if code:
        return code
    cloud = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CENOTE_")},
        "CENOTE_STATE_DIR": str(place.state / "test-cloud"),
        "CENOTE_VENV": str(place.venv),
        "CENOTE_PORT": TEST_CLOUD_PORT,
    }
    # Whatever an earlier run left, alive or dead, goes first.
    _run("down", "--purge", env=cloud)
    try:
        code = _run("up", env=cloud)
        if code == 0:
            tests = {**env, "CENOTE_TEST_CLOUD": cloud["CENOTE_STATE_DIR"]}
            code = _pytest(tests, "-m", f"cloud{unwanted}", "--timeout", "1800", "-p", "no:cacheprovider")
            if code:
                _show_logs(Path(cloud["CENOTE_STATE_DIR"]) / "log")
    finally:
        down = _run("down", "--purge", env=cloud)
    return code or down


def _run(command: str, *arguments: str, env: dict[str, str]) -> int:
    return subprocess.run([REPO / "deploy" / command, *arguments], env=env, check=False).returncode


def _show_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        print(f"--- the end of {log.name}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
