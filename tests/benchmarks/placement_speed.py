"""How many placements a second, and what each costs in CPU, on a durable PostgreSQL of its own.

    python -m tests.benchmarks.placement_speed [--hosts 100 1000 5000] [--seconds 10] [--roots own one] [--clients 8]
                                               [--parts floor process http refusal] [--keys]

floor     a bare transaction in SQL: pick a host, raise its sums, insert the allocation, charge the quota, commit
process   `create_instances`: authorization to committed claim with instance, address, operation, audit and decision
http      POST /api/v1/instances over gunicorn as deployed; `--keys` sends an Idempotency-Key with each
refusal   the same service call for what fits nowhere, remedies and stored decision included

Each client is a process with its own connection and tenant; with `one` all tenants lie under one root, with `own` each
is its own root. CPU is user and system time of all processes of a kind during the measured window, by placement.
Everything, clients included, shares the machine's cores. At the end the ledger's invariants are checked.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

from tests.benchmarks.durable import durable_postgres

_INSIDE = "import django; django.setup(); from tests.benchmarks.placement_runs import main; main()"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--roots", nargs="+", choices=["own", "one"], default=["own", "one"])
    parts = ["floor", "process", "http", "refusal"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--keys", action="store_true")
    parser.add_argument("--profile", help="write a cProfile of one client of `process` here")
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
