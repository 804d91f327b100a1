"""Check the invariants. Exit code 0: all hold; 1: violations, one a line."""

from __future__ import annotations

import sys
import time
from typing import Any

from django.core.management.base import BaseCommand

from compute.selectors.invariants import CHECKS, check_all


class Command(BaseCommand):
    help = "Check that the books add up and nothing is in limbo. Changes nothing. Exit code 1 when something is wrong."

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.monotonic()
        violations = check_all()
        seconds = time.monotonic() - began
        for violation in violations:
            self.stdout.write(f"{violation.invariant}  {violation.detail}")
        names = ", ".join(dict.fromkeys(check.invariant for check in CHECKS))
        self.stdout.write(f"{len(violations)} violations ({names} checked in {seconds:.2f} s)")
        if violations:
            sys.exit(1)
