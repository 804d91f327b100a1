"""The whole product at 10,000 hosts and 200,000 instances: lists, pages, audit, reconcilers, heartbeats; exit code 1 past a bound.

    python -m tests.benchmarks.scale [--hosts 10000] [--instances 200000] [--grants 20] [--parts http books turns beats]
                                     [--only WORD]

http      reads over gunicorn as deployed, with a token or a session, one at a time: median, p95, bytes, SQL queries
books     the audit of all invariants
turns     one turn of each reconciler, when nothing has happened, and after two hosts have gone silent
beats     heartbeats of hosts with their 20 guests: what one costs, so how many processes 10,000 hosts keep busy

A durable PostgreSQL of its own, filled by `tests.benchmarks.large_cloud` and by grants made with the services. Bounds are
in milliseconds of wall clock (p95 for `http`); on a machine that is busy otherwise they are passed for other reasons: the
load average stands in the last line.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

from tests.benchmarks.durable import durable_postgres

_INSIDE = "import django; django.setup(); from tests.benchmarks.scale_runs import main; main()"
PARTS = ("http", "books", "turns", "beats")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--instances", type=int, default=200_000)
    parser.add_argument("--grants", type=int, default=20, help="promises of 50 units each, made by the services")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", default="", help="of `http`, those whose name holds this word")
    return parser.parse_args()


def main() -> int:
    options()
    # However it is ended, its PostgreSQL ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with durable_postgres() as env:
        subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], env=env, check=True)
        return subprocess.run([sys.executable, "-c", _INSIDE, *sys.argv[1:]], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
