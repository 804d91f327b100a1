"""Plan the rebalancing of a cluster that a file describes, without a database, and print the plan as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from compute.scheduler.balance.carrying import Pace
from compute.scheduler.balance.cluster import Cluster
from compute.scheduler.balance.planner import keeping_losses, level, relief


class Command(BaseCommand):
    help = "Plan which guests to move and when: to make the hosts of a cluster alike, or to relieve the busy ones."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("file", type=Path, help='a cluster in JSON, "format": "cluster/1"')
        parser.add_argument("--goal", choices=("level", "relieve"), default="level")
        parser.add_argument("--limit", type=float, default=0.8, help="for relieve: busy share of a host's CPU (0.8)")
        parser.add_argument(
            "--target-score", type=float, default=0.0, help="for level: stop at this score (0: the best)"
        )
        parser.add_argument("--max-moves", type=int, help="at most this many moves")
        parser.add_argument(
            "--keep-losses",
            type=int,
            default=0,
            metavar="K",
            help="take no step after which fewer losses of K hosts could be absorbed (0: do not look)",
        )
        parser.add_argument(
            "--link-rate", type=float, default=1000.0, help="MiB/s that a host's link carries each way (1000)"
        )
        parser.add_argument("--leaving", type=int, default=1, help="guests that leave a host at a time (1)")
        parser.add_argument("--coming", type=int, default=1, help="guests that come to a host at a time (1)")

    def handle(self, *args: Any, **options: Any) -> None:
        limit, target, most = options["limit"], options["target_score"], options["max_moves"]
        for name, value in (("--limit", limit), ("--target-score", target), ("--max-moves", most or 0)):
            if not 0 <= value < float("inf"):
                raise CommandError(f"{name}: a number from 0 is expected, not {value:g}")
        try:
            pace = Pace(options["link_rate"], options["leaving"], options["coming"])
        except ValueError as error:
            raise CommandError(f"--link-rate, --leaving, --coming: {error}") from None
        try:
            cluster = Cluster.from_json(json.loads(options["file"].read_text()))
        except (OSError, ValueError) as error:
            raise CommandError(f"{options['file']}: {error}") from None
        busy = options["goal"] == "relieve"
        plan = relief(cluster, limit, most=most) if busy else level(cluster, target=target, most=most)
        if options["keep_losses"]:
            try:
                plan = keeping_losses(plan, options["keep_losses"])
            except ValueError as error:
                raise CommandError(f"--keep-losses: {error}") from None
        self.stdout.write(json.dumps(plan.as_json(limit, pace), indent=1))
