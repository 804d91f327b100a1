"""What the product adds to libvirt's own time when a guest is migrated.

    python -m tests.benchmarks.migration_virsh [--pairs 20] [--flavor micro] [--downtime-ms 300] [--state DIR]

One VM goes from host to host by the product (from POST until the operation has ended: checks, claim, getting ready, copy,
looks at both ends, adoption, tidying up), then by `virsh migrate` with the same flags to another host and back. Printed: both
columns, the pauses by QEMU's own account, and the ratio of the medians. Needs a running cloud (`deploy/up`) with nothing
else to do; its periodic tasks are off meanwhile, so that nobody minds the guest that virsh has moved. Makes and deletes
the instance bench-move.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import httpx
from lxml import etree

from deploy.labhosts import lab
from deploy.labhosts.namespaces import LabHost
from deploy.steps.demo import read_demo
from deploy.steps.place import Place
from deploy.steps.supervisor import Supervisor
from tests.benchmarks.create_overhead import finish, run

FLAGS = ("--live", "--p2p", "--tls", "--unsafe", "--auto-converge", "--abort-on-error")


@dataclass(frozen=True, slots=True)
class Move:
    """Seconds in all, and how long the guest was paused by QEMU's account, in milliseconds."""

    seconds: float
    downtime_ms: float


def by_product(operator: httpx.Client, instance_id: str, destination: str, downtime_ms: int) -> Move:
    while operator.get(f"/instances/{instance_id}").json()["power"] != "running":
        time.sleep(0.5)  # a listing of its host that saw it arrive is followed by one that sees it run
    began = time.monotonic()
    body = {"destination": destination, "downtime_ms": downtime_ms}
    answer = operator.post(
        f"/instances/{instance_id}/actions/migrate", json=body, headers={"Idempotency-Key": uuid.uuid4().hex}
    )
    if answer.status_code != 202:
        raise RuntimeError(answer.text)
    finish(operator, answer.json()["operation"]["id"])
    seconds = time.monotonic() - began
    newest = operator.get("/migrations", params={"instance": instance_id}).json()["items"][0]
    return Move(seconds, newest["status"]["downtime_ms"])


def by_hand(here: LabHost, there: LabHost, instance_id: str, downtime_ms: int) -> Move:
    """Move it with virsh, to a host whose directory for it is made before and out of the time."""
    local = there.dir / "cenote" / "local" / "instances" / instance_id
    local.mkdir(mode=0o700, exist_ok=True)
    xml = etree.fromstring(run(*here.enter(), "virsh", "dumpxml", "--migratable", instance_id))
    for resource in xml.findall("resource"):
        xml.remove(resource)  # the tenant's partition is each host's own
    definition = here.dir / "cenote" / "bench-move.xml"
    definition.write_bytes(etree.tostring(xml))
    run(*here.enter(), "virsh", "migrate-setmaxdowntime", instance_id, str(downtime_ms))
    words = (*FLAGS, "--xml", "/var/lib/cenote/bench-move.xml", "--migrateuri", f"tcp://{there.address}", instance_id)
    began = time.monotonic()
    run(*here.enter(), "virsh", "migrate", *words, f"qemu+tls://{there.address}/system")
    seconds = time.monotonic() - began
    definition.unlink()
    said = run(*there.enter(), "virsh", "domjobinfo", "--completed", instance_id)
    found = re.search(r"Total downtime:\s+(\d+)\s+ms", said)
    if found is None:
        raise RuntimeError(f"no downtime in {said}")
    return Move(seconds, float(found[1]))


def measure(place: Place, pairs: int, flavor: str, downtime_ms: int) -> tuple[list[Move], list[Move]]:
    """Return the product's moves, and virsh's: two for each pair, there and back."""
    demo = read_demo(place)
    base = f"{demo['CENOTE_URL']}/api/v1"
    product: list[Move] = []
    virsh: list[Move] = []
    with (
        httpx.Client(base_url=base, headers={"Authorization": f"Bearer {demo['CENOTE_TOKEN']}"}, timeout=90) as api,
        httpx.Client(
            base_url=base, headers={"Authorization": f"Bearer {demo['CENOTE_OPERATOR_TOKEN']}"}, timeout=90
        ) as operator,
    ):
        body = {"name": "bench-move", "image": "tiny", "flavor": flavor, "keypairs": ["demo"]}
        made = api.post("/instances", json=body, headers={"Idempotency-Key": uuid.uuid4().hex}).json()
        instance_id = made["instance"]["id"]
        finish(api, made["operation"]["id"])
        hosts = {host.name: host for host in lab.hosts(place)}
        supervisor = Supervisor(place)
        time.sleep(20)  # it boots, and a listing of its host tells of it
        supervisor.stop("beat")
        try:
            for _ in range(pairs):
                here = operator.get(f"/instances/{instance_id}").json()["host"]["name"]
                there = next(name for name in sorted(hosts) if name != here)
                product.append(by_product(operator, instance_id, there, downtime_ms))
                virsh.append(by_hand(hosts[there], hosts[here], instance_id, downtime_ms))
                virsh.append(by_hand(hosts[here], hosts[there], instance_id, downtime_ms))
                print(
                    f"{here} -> {there}: product {product[-1].seconds:.2f} s, virsh {virsh[-1].seconds:.2f} s",
                    flush=True,
                )
        finally:
            supervisor.start("beat")
            finish(api, api.delete(f"/instances/{instance_id}").json()["operation"]["id"])
    return product, virsh


def show(product: list[Move], virsh: list[Move], downtime_ms: int) -> None:
    print(f"\n{len(product)} moves by the product, {len(virsh)} by virsh; load average {os.getloadavg()[0]:.1f}")
    print(f"{'':24}{'product':>12}{'virsh':>12}{'ratio':>10}")
    for title, column in (("seconds", "seconds"), ("pause, ms by QEMU", "downtime_ms")):
        ours, theirs = ([float(getattr(move, column)) for move in moves] for moves in (product, virsh))
        one, other = statistics.median(ours), statistics.median(theirs)
        print(f"{title + ', median':24}{one:12.2f}{other:12.2f}{one / other:10.2f}")
        print(f"{title + ', worst':24}{max(ours):12.2f}{max(theirs):12.2f}")
    added = statistics.median(move.seconds for move in product) - 1.1 * statistics.median(
        move.seconds for move in virsh
    )
    print(f"median beyond 1.10 times virsh's: {added:.2f} s; asked for a pause of {downtime_ms} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--flavor", default="micro")
    parser.add_argument("--downtime-ms", type=int, default=300)
    parser.add_argument("--state", type=Path, default=None, help="the cloud's state directory")
    arguments = parser.parse_args()
    if arguments.state:
        os.environ["CENOTE_STATE_DIR"] = str(arguments.state)
    place = Place.here()
    show(*measure(place, arguments.pairs, arguments.flavor, arguments.downtime_ms), arguments.downtime_ms)


if __name__ == "__main__":
    sys.exit(main())
