"""Write what the flight recorder kept of a pool to a file, for `schedule_replay`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from compute.selectors.lookup import find_pool
from compute.services.flight import flight_lines
from tenants.errors import DomainError


class Command(BaseCommand):
    help = (
        "Write a pool's recorded decisions and hosts as JSON lines (compute/scheduler/flight.py says what they hold)."
    )

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("pool")
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--since", type=_moment, help="RFC 3339 with its zone, for example 2030-01-01T00:00:00+00:00"
        )
        parser.add_argument("--until", type=_moment)

    def handle(self, *args: Any, **options: Any) -> None:
        decisions = 0
        try:
            lines = flight_lines(pool=find_pool(options["pool"]), since=options["since"], until=options["until"])
            with options["file"].open("w") as stream:
                for line in lines:
                    decisions += line["kind"] == "decision"
                    stream.write(json.dumps(line, separators=(",", ":")) + "\n")
        except (DomainError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{decisions} decisions")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone")
    return moment
