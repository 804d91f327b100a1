"""What is read out of libvirt's XML, on XML as libvirt 9 gives it."""

from __future__ import annotations

from compute.node.drivers.libvirt.facts import best_processor, flags_of, huge_sizes, numa_cells, usable_models
from compute.wire import HugePages, NumaCell

DOMAIN = """
<domainCapabilities><cpu>
  <mode name='host-passthrough' supported='no'/>
  <mode name='host-model' supported='yes'>
    <model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
    <feature policy='require' name='vaes'/><feature policy='disable' name='vme'/>
  </mode>
  <mode name='custom' supported='yes'>
    <model usable='no' vendor='Intel'>Skylake-Server</model>
    <model usable='yes' vendor='Intel'>Westmere</model><model usable='unknown'>Nehalem</model>
  </mode>
</cpu></domainCapabilities>
"""
EXPANDED = """
<cpu mode='custom' match='exact'><model fallback='forbid'>EPYC</model>
  <feature policy='require' name='aes'/><feature policy='disable' name='vme'/><feature policy='require' name='vaes'/>
</cpu>
"""
MACHINE = """
<capabilities><host><topology><cells num='3'>
  <cell id='1'><memory unit='KiB'>8388608</memory>
    <pages unit='KiB' size='4'>2097152</pages><pages unit='KiB' size='2048'>64</pages><pages unit='KiB' size='1048576'>0</pages>
    <cpus num='2'><cpu id='3'/><cpu id='2'/></cpus></cell>
  <cell id='0'><memory unit='KiB'>4194304</memory>
    <pages unit='KiB' size='4'>1048576</pages><pages unit='KiB' size='2048'>0</pages>
    <cpus num='2'><cpu id='0'/><cpu id='1'/></cpus></cell>
  <cell id='2'><cpus num='0'/></cell>
</cells></topology></host></capabilities>
"""


def test_models_are_those_that_libvirt_calls_usable_or_does_not_know() -> None:
    assert usable_models(DOMAIN) == ("Nehalem", "Westmere")


def test_the_best_processor_is_what_libvirt_would_give_as_the_hosts_own() -> None:
    best = best_processor(DOMAIN)
    assert best is not None
    assert "EPYC" in best
    assert "vaes" in best
    assert best_processor("<domainCapabilities/>") is None


def test_flags_that_are_switched_off_are_not_offered() -> None:
    assert flags_of(EXPANDED) == ("aes", "vaes")


def test_cells_without_memory_are_left_out_and_pages_are_counted_by_size() -> None:
    assert huge_sizes(MACHINE) == (2048,)
    assert numa_cells(MACHINE, {(1, 2048): 60}) == (
        NumaCell(0, (0, 1), 4096),
        NumaCell(1, (2, 3), 8192, (HugePages(2048, 64, 60),)),
    )
