"""Where a guest's threads run, and what a host refuses to give away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.node.drivers.base import Never
from compute.node.drivers.cpus import check_cells, cpu_list, shared_cpus
from compute.node.drivers.libvirt.cgroups import FEATURES, Cgroups
from compute.node.drivers.libvirt.xml_vm import Machine, build_vm
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import image_paths, instance_paths
from compute.wire import CellSpec, HugePages, NumaCell
from tests.drivers.specs import make_spec

CELLS = (
    NumaCell(0, (0, 1, 2, 3), 4096, (HugePages(2048, 64, 64),), dedicated=(2, 3)),
    NumaCell(1, (4, 5), 4096, dedicated=(4, 5)),
)
SETTINGS = DriverSettings(vcpus=2, memory_mib=2048, disk_gib=20)


@given(st.frozensets(st.integers(0, 300)))
def test_a_list_of_cpus_reads_back_as_it_was(numbers: frozenset[int]) -> None:
    parts = [part.split("-") for part in cpu_list(numbers).split(",") if part]
    assert {cpu for part in parts for cpu in range(int(part[0]), int(part[-1]) + 1)} == numbers


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ((), (0, 1)),  # anywhere but on what is kept
        ((CellSpec(0, 2, 64),), (0, 1)),
        ((CellSpec(0, 1, 64, cpus=(2,)),), (0, 1)),
        ((CellSpec(1, 1, 64, cpus=(4,)),), (0, 1)),  # its own cell shares none
    ],
)
def test_threads_without_a_cpu_of_their_own_run_on_shared_ones(
    cells: tuple[CellSpec, ...], expected: tuple[int, ...]
) -> None:
    assert shared_cpus(make_spec(cells=cells), CELLS) == expected


def test_where_nothing_is_shared_a_guest_keeps_to_its_own_cpus() -> None:
    assert shared_cpus(make_spec(cells=(CellSpec(1, 2, 64, cpus=(4, 5)),)), CELLS[1:]) == (4, 5)


@pytest.mark.parametrize("part", [CellSpec(2, 1, 64), CellSpec(0, 1, 64, cpus=(1,)), CellSpec(1, 1, 64, page_kib=2048)])
def test_what_is_not_there_to_give_is_refused_for_good(part: CellSpec) -> None:
    with pytest.raises(Never) as refused:
        check_cells(make_spec(cells=(part,)), CELLS)
    assert refused.value.code == "cells_refused"


def test_a_vms_definition_names_cpus_pages_and_cells() -> None:
    spec = make_spec(
        vcpus=2,
        memory_mib=128,
        cells=(CellSpec(0, 1, 64, 2048, (2,)), CellSpec(1, 1, 64, 2048, (4,))),
    )
    domain = build_vm(
        spec,
        token=1,
        name=None,
        machine=Machine("qemu", "pc-q35-7.2", "Westmere"),
        cgroups=Cgroups(1, frozenset(FEATURES)),
        settings=SETTINGS,
        image=image_paths(SETTINGS, spec.disk.image),
        paths=instance_paths(SETTINGS, spec.id),
        bridges=("cnb4d",),
        shared_cpus=(0, 1),
    )

    def said(path: str) -> list[dict[str, str]]:
        return [{str(key): str(value) for key, value in found.attrib.items()} for found in domain.iterfind(path)]

    assert said("vcpu") == [{"placement": "static", "cpuset": "0-1"}]
    assert said("cputune/vcpupin") == [{"vcpu": "0", "cpuset": "2"}, {"vcpu": "1", "cpuset": "4"}]
    assert said("cputune/emulatorpin") == [{"cpuset": "0-1"}]
    assert said("memoryBacking/hugepages/page") == [{"size": "2048", "unit": "KiB"}]
    assert said("numatune/memory") == [{"mode": "strict", "nodeset": "0-1"}]
    assert [memory["nodeset"] for memory in said("numatune/memnode")] == ["0", "1"]
    assert [cell["cpus"] for cell in said("cpu/numa/cell")] == ["0", "1"]


def test_without_an_ask_nothing_is_said_of_cpus() -> None:
    spec = make_spec()
    domain = build_vm(
        spec,
        token=1,
        name=None,
        machine=Machine("qemu", "pc-q35-7.2", "Westmere"),
        cgroups=Cgroups(1, frozenset(FEATURES)),
        settings=SETTINGS,
        image=image_paths(SETTINGS, spec.disk.image),
        paths=instance_paths(SETTINGS, spec.id),
        bridges=("cnb4d",),
    )
    assert domain.find("numatune") is None
    assert domain.find("cputune/vcpupin") is None
    assert domain.find("vcpu").get("cpuset") is None  # type: ignore[union-attr]  # every domain has one
