"""Benchmarks at their smallest: a column that is new must not be found out by whoever measures next. No figure is judged."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks.durable import REPO


@pytest.mark.faults
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "placement_speed --hosts 10 --clients 2 --seconds 0.5 --roots own --parts floor process",
            ["floor", "process", "the ledger holds"],
        ),
        ("audit_speed --hosts 10 --instances 200", ["filled in", "I13", "showback"]),
        ("scale --hosts 10 --instances 200 --grants 0 --parts books", ["filled in", "audit of all invariants"]),
    ],
)
def test_it_runs_and_says_what_it_measured(words: str, says: list[str]) -> None:
    command = [sys.executable, "-m", *f"tests.benchmarks.{words}".split()]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for word in says:
        assert word in done.stdout
