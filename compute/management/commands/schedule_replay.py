"""Decide again what a flight file holds, without a database. Exit code 0: the same, bit for bit; 1: something differs."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from compute.scheduler.dump import DumpError
from compute.scheduler.flight import Report, Side, replay
from compute.scheduler.model import POLICY_WEIGHTS, Policy

_HOT = 0.9
_SHOWN = 10


class Command(BaseCommand):
    help = "Replay a file of `schedule_dump`: under its own policy to prove it, under another to compare."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--policy", choices=sorted(POLICY_WEIGHTS), help="compare with this one")

    def handle(self, *args: Any, **options: Any) -> None:
        policy = Policy(options["policy"]) if options["policy"] else None
        try:
            report = replay(_lines(options["file"]), policy=policy)
        except (DumpError, OSError, ValueError) as error:
            raise CommandError(str(error)) from None
        if report.missing:
            self.stdout.write(f"{report.missing} decisions whose hosts are not in the file")
        if policy is not None:
            self._compare(report, policy.name)
            return
        different = [decision for decision in report.decisions if not decision.same]
        for decision in different[:_SHOWN]:
            self.stdout.write(
                f"{decision.at} {decision.name}: recorded {decision.recorded or 'refused'}, now {decision.now or 'refused'}"
            )
        self.stdout.write(f"{len(report.decisions)} decisions, {len(different)} different")
        if not report.same:
            sys.exit(1)

    def _compare(self, report: Report, name: str) -> None:
        moved = sum(decision.recorded != decision.now for decision in report.decisions)
        self.stdout.write(f"{len(report.decisions)} decisions, {moved} of them otherwise under {name}")
        self.stdout.write(f"{'':32}{'recorded':>12}{name:>12}")
        for title, values in _rows(report).items():
            self.stdout.write(f"{title:32}{values[0]:>12}{values[1]:>12}")


def _rows(report: Report) -> dict[str, tuple[str, str]]:
    sides = (report.recorded, report.now)
    return {
        "refused": _both(str(side.refused) for side in sides),
        "hosts used": _both(str(len(side.placed)) for side in sides),
        "most placed on one host": _both(str(max(side.placed.values(), default=0)) for side in sides),
        "spread (standard deviation)": _both(_spread(side, report) for side in sides),
        f"hot hosts (from {_HOT:.0%} full)": _both(
            str(sum(share >= _HOT for share in side.fullest.values())) for side in sides
        ),
        "fullest host": _both(f"{max(side.fullest.values(), default=0.0):.0%}" for side in sides),
    }


def _spread(side: Side, report: Report) -> str:
    """Of placements per host, over all hosts that either side used."""
    hosts = sorted(report.recorded.placed.keys() | report.now.placed.keys())
    return f"{statistics.pstdev(side.placed[host] for host in hosts):.2f}" if hosts else "0.00"


def _both(values: Iterator[str]) -> tuple[str, str]:
    first, second = values
    return first, second


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open() as stream:
        for line in stream:
            yield json.loads(line)
