"""How long the audit takes at 10,000 hosts and 200,000 instances, check by check; and the usage reports beside it.

    python -m tests.benchmarks.audit_speed [--hosts 10000] [--instances 200000]

In a database of its own, filled by `tests.benchmarks.large_cloud`: every check must find nothing, a violation ends the
benchmark. Printed: seconds of each check and of all, of the whole cloud's usage reports, and of the ledger's three writers,
one by one, in transactions of their own. The database is dropped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from tests.benchmarks.large_cloud import ACTOR, fill_cloud  # isort: skip  # sets Django up, before any model is imported

from compute.models import Flavor, Pool
from compute.selectors.invariants import run_checks
from compute.selectors.showback import read_showback
from compute.selectors.usage import Period, read_usage
from tenants.models import Tenant
from tenants.services import metering


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--instances", type=int, default=200_000)
    options = parser.parse_args()
    kept = connection.settings_dict["NAME"]
    connection.settings_dict["TEST"]["NAME"] = "benchmark_audit"
    connection.creation.create_test_db(verbosity=0, serialize=False)
    try:
        began = time.monotonic()
        fill_cloud(hosts=options.hosts, instances=options.instances)
        print(f"filled in {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
        _audit()
        _reports()
        _writers()
    finally:
        connection.creation.destroy_test_db(kept, verbosity=0)
    return 0


def _audit() -> None:
    began = time.monotonic()
    results = run_checks()
    whole = time.monotonic() - began
    for result in results:
        print(f"{result.seconds:8.2f} s  {result.check.invariant:4} {result.check.title}")
        for violation in result.violations[:3]:
            print(f"            {violation.detail}")
    print(f"{whole:8.2f} s  all of them")
    if any(result.violations for result in results):
        sys.exit("the cloned rows do not hold together: what was measured means nothing")


def _reports() -> None:
    period = Period.between(timezone.now().replace(microsecond=0) - timedelta(days=30), None)
    leaf = Tenant.objects.filter(path__len=3).first()
    reports: dict[str, Callable[[], Any]] = {
        "usage of the cloud by tenant": lambda: read_usage(actor=ACTOR, tenant=None, period=period),
        "usage of the cloud by day": lambda: read_usage(actor=ACTOR, tenant=None, period=period, group_by="day"),
        "showback of the cloud": lambda: read_showback(actor=ACTOR, tenant=None, period=period),
        "usage of one leaf by instance": lambda: read_usage(
            actor=ACTOR, tenant=leaf, period=period, group_by="instance"
        ),
    }
    for name, read in reports.items():
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            read()
            seconds.append(time.monotonic() - began)
        print(f"{seconds[0]:8.2f} s  {name}; the best of two more {min(seconds[1:]):.2f} s")


def _writers(rounds: int = 1000) -> None:
    tenant = Tenant.objects.filter(path__len=3).first()
    flavor, pool = Flavor.objects.get(name="small"), Pool.objects.get()
    assert tenant is not None
    usage = metering.Usage(
        consumer_type="instance",
        kind="vm",
        flavor_id=flavor.id,
        flavor_name=flavor.name,
        pool_id=pool.id,
        pool_name=pool.name,
        vcpus=1,
        memory_mib=256,
        disk_gib=1,
    )
    ids = [uuid.uuid4() for _ in range(rounds)]
    acts: dict[str, Callable[[uuid.UUID], Any]] = {
        "hold": lambda consumer: metering.hold(tenant=tenant, usage=usage, consumers=[(consumer, "web")]),
        "commit": lambda consumer: metering.commit(consumer_id=consumer),
        "release": lambda consumer: metering.release(consumer_id=consumer),
    }
    for name, act in acts.items():
        began, cpu = time.monotonic(), time.process_time()
        for consumer in ids:
            with transaction.atomic():
                act(consumer)
        each, own = (time.monotonic() - began) / rounds, (time.process_time() - cpu) / rounds
        print(f"{each * 1000:8.2f} ms {name}, of it {own * 1000:.2f} ms CPU of this process")


if __name__ == "__main__":
    sys.exit(main())
