"""The commands of deploy/ against a cloud that runs: twice at once, what a host's broker user opens, and backups."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from deploy.steps.place import REPO
from tests.cloud.conftest import RunningCloud

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]


def command(running: RunningCloud, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPO / "deploy" / words[0], *words[1:]],
        env={**running.shell_env, **env},
        capture_output=True,
        text=True,
        timeout=400,
    )


def test_two_ups_at_once_are_one_too_many(running: RunningCloud):
    words = [REPO / "deploy" / "up"]
    both = [
        subprocess.Popen(words, env=running.shell_env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert any("Another deploy command" in text for text in said)


def test_a_hosts_broker_user_opens_only_its_own_queue(running: RunningCloud):
    node_env = running.lab("exec", "host1", "--", "cat", "/etc/cenote/node.env")
    url = (
        next(line for line in node_env.splitlines() if line.startswith("CENOTE_NODE_BROKER="))
        .partition("=")[2]
        .strip("'")
    )
    user, _, rest = url.removeprefix("redis+socket://").partition(":")
    password, _, path = rest.partition("@")
    host_id = user.removeprefix("host-")

    def redis(*words: str) -> str:
        argv = ["redis-cli", "-s", path, "--no-auth-warning", "--user", user, "--pass", password, *words]
        return subprocess.run(argv, capture_output=True, text=True).stdout

    assert redis("LLEN", f"host.{host_id}").strip().isdecimal()
    for words in (("LLEN", "control"), ("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST")):
        assert "NOPERM" in redis(*words), words


def test_a_backup_laid_out_elsewhere_has_the_same_books(running: RunningCloud, tmp_path_factory):
    folder = tmp_path_factory.mktemp("b")
    file, state = folder / "cloud.tar", folder / "s"
    done = command(running, "backup", str(file))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    there = {"CENOTE_STATE_DIR": str(state), "CENOTE_PORT": "8499"}
    try:
        laid = command(running, "restore", str(file), **there)
        assert laid.returncode == 0, laid.stderr
        twice = command(running, "restore", str(file), **there)
        assert twice.returncode == 1
        assert "needs an empty one" in twice.stderr
        # A backup of the copy is a way to read it: its database must hold what the first one's does.
        assert command(running, "backup", str(folder / "copy.tar"), **there).returncode == 0
        assert rows(file) == rows(folder / "copy.tar")
        assert rows(file)["tenants_user"] >= 3
    finally:
        assert command(running, "down", "--purge", **there).returncode == 0


def rows(archive: os.PathLike[str]) -> dict[str, int]:
    """Rows of each table in an archive's dump, but of those that the cloud writes to all the time."""
    dump = subprocess.run(["tar", "-xOf", archive, "database.dump"], capture_output=True, check=True).stdout
    text = subprocess.run(["pg_restore", "-f", "-", "--data-only"], input=dump, capture_output=True, check=True).stdout
    counts: dict[str, int] = {}
    table = ""
    for line in text.decode().splitlines():
        if line.startswith("COPY public."):
            table = line.split()[1].removeprefix("public.")
            counts[table] = 0
        elif line == "\\.":
            table = ""
        elif table:
            counts[table] += 1
    return {
        name: count
        for name, count in counts.items()
        if name.startswith(("tenants_user", "tenants_tenant", "compute_host"))
    }


def test_something_that_is_no_backup_is_refused(running: RunningCloud, tmp_path):
    (tmp_path / "x.tar").write_text("nonsense")
    done = command(running, "restore", str(tmp_path / "x.tar"), CENOTE_STATE_DIR=str(tmp_path / "s"))
    assert done.returncode == 1
    assert "not a backup" in done.stderr
