"""Installing packages: no service of theirs starts, and the machine's own policy comes back whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from deploy.steps.place import REPO

POLICY = "#!/bin/sh\n# the machine's own\nexit 0\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine whose package tools are played: `apt-get install` notes whether services were held back meanwhile."""
    programs = {
        "dpkg-query": '[ -e "$M/installed" ] && printf installed',
        "dpkg": "exit 0",
        "systemctl": 'echo "$@" >>"$M/systemctl"',
        "apt-get": (
            'case " $* " in *" install "*) ;; *) exit 0 ;; esac\n'
            'if grep -q "exit 101" "$M/policy-rc.d"; then echo held >>"$M/install"; else echo LOOSE >>"$M/install"; fi\n'
            'if [ -e "$M/hang" ]; then touch "$M/hanging"; sleep 600; fi\n'
            '[ ! -e "$M/broken" ] || exit 100\ntouch "$M/installed"'
        ),
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    (tmp_path / "packages.txt").write_text("# a comment\nredis-server\n")
    (tmp_path / "policy-rc.d").write_text(POLICY)
    return tmp_path


def start(machine: Path) -> subprocess.Popen[str]:
    script = (
        f'. "{REPO}/deploy/bootstrap.sh"; policy=$M/policy-rc.d; set -euo pipefail; install_packages "$M/packages.txt"'
    )
    env = {**os.environ, "M": str(machine), "PATH": f"{machine / 'bin'}:{os.environ['PATH']}"}
    return subprocess.Popen(
        ["bash", "-c", script], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    )


def install(machine: Path) -> tuple[int, str]:
    process = start(machine)
    said, _ = process.communicate(timeout=30)
    return process.returncode, said


def test_services_are_held_back_and_the_policy_comes_back(machine: Path) -> None:
    code, said = install(machine)
    assert code == 0, said
    assert (machine / "install").read_text() == "held\n"
    assert (machine / "policy-rc.d").read_text() == POLICY
    assert not (machine / "policy-rc.d.before-cenote").exists()


def test_a_machine_without_a_policy_has_none_afterwards(machine: Path) -> None:
    (machine / "policy-rc.d").unlink()
    assert install(machine)[0] == 0
    assert not (machine / "policy-rc.d").exists()


def test_a_second_run_installs_nothing(machine: Path) -> None:
    install(machine)
    assert install(machine) == (0, "")
    assert (machine / "install").read_text() == "held\n"


def test_a_failed_installation_is_told_and_the_policy_comes_back(machine: Path) -> None:
    (machine / "broken").touch()
    code, said = install(machine)
    assert code == 1
    assert "could not be installed" in said
    assert (machine / "policy-rc.d").read_text() == POLICY


def test_a_killed_installation_is_mended_by_the_next_run(machine: Path) -> None:
    (machine / "hang").touch()
    process = start(machine)
    while not (machine / "hanging").exists():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert (machine / "policy-rc.d").read_text() != POLICY
    (machine / "hang").unlink()
    assert install(machine)[0] == 0
    assert (machine / "policy-rc.d").read_text() == POLICY
    assert (machine / "install").read_text() == "held\nheld\n"
