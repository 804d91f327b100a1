"""Two tenants on one core get the CPU that their shares say, whoever runs more guests, VMs and containers mixed.

Told twice: by the control groups, and by the guests themselves, which count rounds of a loop on their consoles. What a
round costs in CPU time differs between a translated VM and a container, and from one process to the next of the same kind
(measured: by half, for as long as it lives, so by where its memory happens to lie). So each guest's own cost is taken
in a first window, under the same weights, and what it counts in a second one is told in seconds by that. Others' load on
the core takes from all tenants alike, so the machine need not be quiet.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import libvirt
import pytest

from compute.node.drivers.libvirt.cgroups import ROOT, detect
from compute.node.drivers.libvirt.host import LibvirtDriver
from compute.wire import InstanceSpec, Kind, TenantShares, partition_name
from tests.drivers.conftest import Lab
from tests.drivers.specs import make_spec
from tests.drivers.test_libvirt_guests import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
SECONDS: Final = 30.0
ONE, MANY = TENANTS = [str(uuid.UUID(int=0x5EED00 + number)) for number in range(2)]
ROUNDS: Final[dict[Kind, int]] = {"vm": 400_000, "container": 2_000_000}  # some 10 ms of CPU each
# A loop that stays in the smallest cache: what a translated shell's loop costs depends on who else runs. All else in the
# guest is stopped, since a VM's services cost it the same however little it gets.
_BUSY: Final = """#!/bin/sh
kill -STOP -1
exec lua5.4 -e '
local console, counted = io.open("/dev/console", "w"), 0
while true do
    for _ = 1, {rounds} do end
    counted = counted + 1
    console:write("counted ", counted, ".\\n")
    console:flush()
end'
"""
_COUNTED: Final = re.compile(rb"counted (\d+)\.")


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds of each tenant's partition; of each guest its CPU seconds, and what it has counted."""

    cpu: dict[str, float]
    own: dict[str, float]
    counted: dict[str, int]

    def since(self, before: Reading) -> Reading:
        """Return what came on top of an earlier reading."""
        return Reading(
            {tenant: seconds - before.cpu[tenant] for tenant, seconds in self.cpu.items()},
            {guest: seconds - before.own[guest] for guest, seconds in self.own.items()},
            {guest: rounds - before.counted[guest] for guest, rounds in self.counted.items()},
        )


@dataclass(slots=True)
class Core:
    """One core of the lab host, with busy guests on it."""

    driver: LibvirtDriver
    lab: Lab
    core: int
    guests: dict[str, InstanceSpec] = dataclasses.field(default_factory=dict)

    def run(self, tenant: str, *kinds: Kind) -> None:
        """Start busy guests of a tenant, one after the other, each until it counts; VMs are then paused till `go`."""
        for kind in kinds:
            image = self.lab.vm_image if kind == "vm" else self.lab.tree_image
            spec = make_spec(
                kind,
                image=image,
                memory_mib=128,
                nics=(),
                tenant_id=tenant,
                partition=(tenant,),
                user_data=_BUSY.format(rounds=ROUNDS[kind]),
            )
            self.guests[spec.id] = spec
            self.driver.prepare(spec)
            self.driver.start(spec, token=1)
            wait_until(functools.partial(self.counted, spec.id), 120)
            if kind == "vm":
                connection = libvirt.open(self.lab.host.qemu_uri)
                connection.lookupByUUIDString(spec.id).suspend()
                connection.close()

    def go(self) -> None:
        """Confine all partitions to the core, and let paused guests go on."""
        self._confine()
        for spec in self.guests.values():
            self.driver.start(spec, token=2)

    def _confine(self) -> None:
        """Have all partitions run on this core. Children first: a group may not have less than those below it."""
        groups = sorted((ROOT / "cpuset" if detect().version == 1 else ROOT).rglob(f"{self._base}.partition"))
        for group in groups:
            for directory, _, files in os.walk(group, topdown=False):
                if "cpuset.cpus" in files:
                    Path(directory, "cpuset.cpus").write_text(str(self.core))
        assert groups

    @property
    def _base(self) -> str:
        return self.lab.settings.partition

    def counted(self, guest: str) -> int:
        found = _COUNTED.findall(self.driver.console_log(guest, max_bytes=4096))
        return int(found[-1]) if found else 0

    def read(self) -> Reading:
        names = {partition_name(tenant): tenant for tenant in TENANTS}
        cpu = {names[seen.path[-1]]: seen.cpu_seconds for seen in self.driver.list_partitions()}
        own = {seen.uuid: seen.cpu_seconds for seen in self.driver.list_domains()}
        return Reading(cpu, own, {guest: self.counted(guest) for guest in self.guests})

    def measure(self, **shares: int) -> tuple[float, float]:
        """Return what `one` got for each second of `many`: by the control groups, and by what the guests counted."""
        weights = {ONE: shares["one"], MANY: shares["many"]}
        self.driver.weigh(tuple(TenantShares(tenant, cpu=weight, io=100) for tenant, weight in weights.items()))
        readings = [self.read()]
        for _ in range(2):
            time.sleep(SECONDS)
            readings.append(self.read())
        first, second = readings[1].since(readings[0]), readings[2].since(readings[1])
        told = dict.fromkeys(TENANTS, 0.0)
        for guest, spec in self.guests.items():
            told[spec.tenant_id] += second.counted[guest] * first.own[guest] / first.counted[guest]
        by_groups, by_guests = second.cpu[ONE] / second.cpu[MANY], told[ONE] / told[MANY]
        print(f"{shares}: {second.cpu}, told {told}; by groups {by_groups:.3f}, by guests {by_guests:.3f}")
        return by_groups, by_guests

    def remove_all(self) -> None:
        for guest in list(self.guests):
            self.driver.remove(guest)
            del self.guests[guest]
        self.driver.weigh(())


@pytest.fixture
def core(lab: Lab) -> Iterator[Core]:
    driver = lab.open_driver()
    core = Core(driver, lab, max(os.sched_getaffinity(0)))
    yield core
    core.remove_all()
    driver.close()


def test_tenants_get_the_cpu_of_their_shares_whoever_runs_more_guests(core: Core) -> None:
    core.run(MANY, "vm", "vm", "vm", "container", "container", "container")
    core.run(ONE, "container")
    core.go()
    # 45:55 to 55:45, then 3:1 within a tenth
    _assert_shares(core, one=100, many=100, least=45 / 55, most=55 / 45)
    _assert_shares(core, one=300, many=100, least=2.7, most=3.3)


def _assert_shares(core: Core, *, one: int, many: int, least: float, most: float) -> None:
    """The ratio is in its bounds by the groups and by the guests' own counters, in one of three measurements.

    What a round of a guest's loop costs under translation depends on what else the machine does, so a single count may
    be off by more than a tenth; weights that are wrong are wrong each time.
    """
    tried = []
    for _ in range(3):
        ratios = core.measure(one=one, many=many)
        if all(least <= ratio <= most for ratio in ratios):
            return
        tried.append(ratios)
    raise AssertionError(f"shares {one}:{many}: by groups and by guests {tried}, not from {least:.2f} to {most:.2f}")
