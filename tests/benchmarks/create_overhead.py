"""What the product adds to libvirt's own time when an instance is made.

    python -m tests.benchmarks.create_overhead [--count 20] [--state DIR]

For each of N VMs and N containers, one at a time, the earlier ones stopped: the time from POST until libvirt reports the
domain as started (its own event), and in the same run, on the same host, the time until the same event when the disk is
cloned and the same definition is given to `virsh define` and `virsh start`. Printed: both columns, and the difference.
Needs a running cloud (`deploy/up`). Makes and deletes instances named bench-*.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import libvirt
from lxml import etree

from deploy.labhosts import lab
from deploy.steps.demo import read_demo
from deploy.steps.place import Place

SHARED = "/var/lib/cenote/shared"
KINDS = {"vm": ("tiny", "micro", "qemu"), "container": ("tiny-container", "nano", "lxc")}


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of one instance: by the product, and by virsh alone."""

    product: float
    virsh: float

    @property
    def added(self) -> float:
        return self.product - self.virsh


class Starts:
    """When each domain was started, by libvirt's lifecycle events of every lab host."""

    def __init__(self, place: Place) -> None:
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=self._loop, daemon=True).start()
        self._seen: dict[str, float] = {}
        self._changed = threading.Condition()
        self._connections = []
        for host in lab.hosts(place):
            for driver in ("qemu", "lxc"):
                connection = libvirt.open(uri(place, host.name, driver))
                connection.setKeepAlive(5, 3)
                connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._happened, None)
                self._connections.append(connection)

    def _loop(self) -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    def _happened(self, connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            with self._changed:
                self._seen.setdefault(domain.UUIDString(), time.monotonic())
                self._changed.notify_all()

    def wait(self, domain_uuid: str, seconds: float = 60) -> float:
        """Return the moment at which the domain was first reported as started."""
        with self._changed:
            if not self._changed.wait_for(lambda: domain_uuid in self._seen, timeout=seconds):
                raise RuntimeError(f"{domain_uuid} was not started in {seconds:.0f} s")
            return self._seen[domain_uuid]


def uri(place: Place, host: str, driver: str) -> str:
    """Return how to reach a lab host's libvirt from outside of its namespaces."""
    scheme = "qemu+unix" if driver == "qemu" else "lxc+unix"
    return f"{scheme}:///system?socket={place.lab(host)}/run/libvirt/libvirt-sock"


def one(place: Place, api: httpx.Client, operator: httpx.Client, starts: Starts, kind: str, number: int) -> Sample:
    """Make one instance, then the same by hand; leave the instance stopped."""
    image, flavor, driver = KINDS[kind]
    body = {"name": f"bench-{kind}-{number}", "image": image, "flavor": flavor, "keypairs": ["demo"]}
    began = time.monotonic()
    answer = api.post("/instances", json=body, headers={"Idempotency-Key": uuid.uuid4().hex})
    if answer.status_code != 202:
        raise RuntimeError(answer.text)
    made = answer.json()
    instance_id = made["instance"]["id"]
    product = starts.wait(instance_id) - began
    finish(api, made["operation"]["id"])
    host = operator.get(f"/instances/{instance_id}").json()["host"]["name"]
    stopped = api.post(f"/instances/{instance_id}/actions/stop", json={"force": True}).json()
    finish(api, stopped["operation"]["id"])
    return Sample(product, by_hand(place, starts, host, driver, instance_id))


def finish(api: httpx.Client, operation_id: str) -> None:
    operation = api.get(f"/operations/{operation_id}", params={"wait": 60}).json()
    if operation["state"] != "succeeded":
        raise RuntimeError(str(operation))


def by_hand(place: Place, starts: Starts, host: str, driver: str, instance_id: str) -> float:
    """Clone the disk, define and start the same definition under another name with virsh; return the seconds."""
    address = uri(place, host, driver)
    xml = virsh(address, "dumpxml", "--inactive", instance_id)
    twin = str(uuid.uuid4())
    source, target = place.shared / "instances" / instance_id, place.shared / "instances" / twin
    definition = place.private / f"{twin}.xml"
    definition.write_text(renamed(xml, instance_id, twin))
    tree = next(iter((place.shared / "images").glob(".tree-*-100000")), None)
    info = backing(source / "disk.qcow2") if driver == "qemu" else None
    local = place.lab(host) / "cenote" / "local" / "instances" / twin
    local.mkdir(mode=0o711)
    if driver == "qemu":
        target.mkdir(mode=0o711)
        shutil.copyfile(source / "seed.iso", target / "seed.iso")
    began = time.monotonic()
    if info is not None:
        # Inside the host, where the backing file's path leads to it.
        inside = f"{SHARED}/instances/{twin}/disk.qcow2"
        words = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", info[0], inside, info[1])
        run(*lab.host_named(place, host).enter(), *words)
    else:
        assert tree is not None, "the product keeps an unpacked tree of each container image"
        target.mkdir(mode=0o711)
        run("cp", "-a", "--reflink=auto", str(tree), str(target / "rootfs"))
    virsh(address, "define", str(definition))
    virsh(address, "start", twin)
    seconds = starts.wait(twin) - began
    virsh(address, "destroy", twin)
    virsh(address, "undefine", twin)
    definition.unlink()
    shutil.rmtree(target)
    shutil.rmtree(local)
    return seconds


def renamed(xml: str, instance_id: str, twin: str) -> str:
    """Return the definition under another uuid, name, disk, MAC and port, without the product's mark."""
    root = etree.fromstring(xml)
    for element in root.findall("metadata"):
        root.remove(element)
    root.find("name").text = f"bench-{twin[:8]}"
    root.find("uuid").text = twin
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, value.replace(instance_id, twin))
    for mac in root.iter("mac"):
        mac.set("address", f"52:54:00:{twin[0:2]}:{twin[2:4]}:{twin[4:6]}")
    for target in root.findall("devices/interface/target"):
        target.set("dev", f"bn{twin[:8]}")
    return str(etree.tostring(root, encoding="unicode"))


def backing(disk: Path) -> tuple[str, str]:
    """Return an overlay's backing file as it was given, and its size in bytes."""
    said = run("qemu-img", "info", "-U", "--output=json", "-f", "qcow2", str(disk))
    data: dict[str, Any] = json.loads(said)
    return str(data["backing-filename"]), str(data["virtual-size"])


def virsh(address: str, *words: str) -> str:
    return run("virsh", "-q", "-c", address, *words)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words[:4])}: {done.stderr.strip()}")
    return done.stdout


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not pass (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


def show(kind: str, samples: list[Sample]) -> None:
    print(f"\n{kind}: {len(samples)} instances   (milliseconds)")
    print(f"{'':10}{'median':>10}{'p95':>10}{'min':>10}{'max':>10}")
    for title, values in (
        ("product", [sample.product for sample in samples]),
        ("virsh", [sample.virsh for sample in samples]),
        ("added", [sample.added for sample in samples]),
    ):
        figures = (statistics.median(values), percentile(values, 0.95), min(values), max(values))
        print(f"{title:10}" + "".join(f"{1000 * figure:10.0f}" for figure in figures))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--state", type=Path, default=None, help="state directory of the running cloud")
    options = parser.parse_args()
    if options.state:
        os.environ["CENOTE_STATE_DIR"] = str(options.state)
    place = Place.here()
    env = read_demo(place)
    base = f"{env['CENOTE_URL']}/api/v1"
    with (
        httpx.Client(base_url=base, headers={"Authorization": f"Bearer {env['CENOTE_TOKEN']}"}, timeout=90) as api,
        httpx.Client(
            base_url=base, headers={"Authorization": f"Bearer {env['CENOTE_OPERATOR_TOKEN']}"}, timeout=90
        ) as operator,
    ):
        starts = Starts(place)
        try:
            everything: list[Sample] = []
            for kind in KINDS:
                samples = []
                for number in range(options.count):
                    samples.append(one(place, api, operator, starts, kind, number))
                    clean(api)
                show(kind, samples)
                everything += samples
            show("all", everything)
        finally:
            clean(api)
    return 0


def clean(api: httpx.Client) -> None:
    for row in api.get("/instances", params={"limit": 200}).json()["items"]:
        if row["name"].startswith("bench-"):
            answer = api.delete(f"/instances/{row['id']}")
            if answer.status_code == 202:
                finish(api, answer.json()["operation"]["id"])


if __name__ == "__main__":
    sys.exit(main())
