from __future__ import annotations

from pathlib import Path

import pytest

from compute.node.settings import NodeSettings, SettingsError

ENV = {
    "CENOTE_NODE_ID": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "CENOTE_NODE_TOKEN": "cnn_secret",
    "CENOTE_NODE_API": "http+unix:///run/web.sock",
    "CENOTE_NODE_BROKER": "redis+socket://host:pw@/run/redis.sock",
    "CENOTE_NODE_VCPUS": "4",
    "CENOTE_NODE_MEMORY_MIB": "4096",
    "CENOTE_NODE_DISK_GIB": "100",
    "CENOTE_NODE_UNDERLAY": "10.99.0.1",
    "UNRELATED": "x",
}


def test_what_the_join_writes_is_read() -> None:
    settings = NodeSettings.from_env(ENV)
    assert (settings.driver.vcpus, settings.driver.memory_mib, settings.driver.disk_gib) == (4, 4096, 100)
    assert settings.driver_name == "libvirt"
    assert settings.state_dir == Path("/var/lib/cenote/node")
    assert settings.underlay_address == settings.driver.underlay_address == "10.99.0.1"
    assert settings.ca_file is None


@pytest.mark.parametrize("name", ["ID", "TOKEN", "API", "VCPUS", "MEMORY_MIB", "DISK_GIB"])
def test_a_missing_one_is_named(name: str) -> None:
    key = f"CENOTE_NODE_{name}"
    for env in ({k: v for k, v in ENV.items() if k != key}, ENV | {key: ""}):
        with pytest.raises(SettingsError, match=key):
            NodeSettings.from_env(env)


@pytest.mark.parametrize("value", ["0", "-1", "four", "1.5", "٤"])
def test_a_number_without_sense_is_named(value: str) -> None:
    with pytest.raises(SettingsError, match="CENOTE_NODE_VCPUS"):
        NodeSettings.from_env(ENV | {"CENOTE_NODE_VCPUS": value})


def test_an_id_or_driver_without_sense_is_named() -> None:
    for key, value in (("CENOTE_NODE_ID", "*"), ("CENOTE_NODE_DRIVER", "xen")):
        with pytest.raises(SettingsError, match=key):
            NodeSettings.from_env(ENV | {key: value})


def test_secrets_are_not_shown() -> None:
    shown = repr(NodeSettings.from_env(ENV))
    assert "cnn_secret" not in shown
    assert "pw@" not in shown


def test_the_slices_cpus_are_read_as_the_kernel_writes_them() -> None:
    driver = NodeSettings.from_env(
        ENV | {"CENOTE_NODE_CPUS": "0-3,8", "CENOTE_NODE_DEDICATED_CPUS": "8,2-3", "CENOTE_NODE_HUGE_PAGES": "no"}
    ).driver
    assert (driver.cpus, driver.dedicated_cpus, driver.huge_pages) == ((0, 1, 2, 3, 8), (2, 3, 8), False)
    plain = NodeSettings.from_env(ENV).driver
    assert (plain.cpus, plain.dedicated_cpus, plain.huge_pages) == ((), (), True)


@pytest.mark.parametrize(
    ("cpus", "dedicated"),
    [("x", ""), ("0-", ""), ("3-1", ""), ("0,,1", ""), ("0-3", "4"), ("0-3", "0-3"), ("", "1 2"), ("٤", "")],
)
def test_cpus_without_sense_are_named(cpus: str, dedicated: str) -> None:
    with pytest.raises(SettingsError, match="CENOTE_NODE_"):
        NodeSettings.from_env(ENV | {"CENOTE_NODE_CPUS": cpus, "CENOTE_NODE_DEDICATED_CPUS": dedicated})
