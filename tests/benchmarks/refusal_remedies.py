"""How long a refusal takes with its remedies, reads and decision included: `python -m tests.benchmarks.refusal_remedies`.

A pool of hosts that lack memory for the request, each with guests, and as many leases as are looked at of which the last
alone makes room, in a test database that is thrown away. Prints the
median and the worst of the runs in milliseconds, wall clock and CPU of this process, and the pure search alone.
"""

from __future__ import annotations

import os
import statistics
import sys

import django


def main(hosts: int = 5000, guests: int = 2000, runs: int = 9, leases: int = 1000) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloud.settings")
    django.setup()
    # Models can be imported only now that Django knows its apps.
    from django.db import connection
    from django.test.utils import setup_databases, setup_test_environment, teardown_databases

    setup_test_environment()
    databases = setup_databases(verbosity=0, interactive=False)
    try:
        from tests.benchmarks.refusal_runs import measure

        walls, cpus, searches, remedies = measure(hosts=hosts, guests=guests, leases=leases, runs=runs)
    finally:
        connection.close()
        teardown_databases(databases, verbosity=0)
    print(f"{hosts} hosts, {guests} guests, {leases} leases, {runs} refusals; remedies: {', '.join(remedies)}")
    for name, values in (("wall ms", walls), ("cpu ms", cpus), ("search ms", searches)):
        print(f"{name:10} median {statistics.median(values):7.1f}   worst {max(values):7.1f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
