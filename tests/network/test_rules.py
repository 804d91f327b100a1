"""The packet filter's text, without a kernel."""

from __future__ import annotations

from compute.node.network import rules
from compute.node.network.names import gateway_mac
from compute.node.network.records import NetworkRecord, PortRecord, State
from compute.wire import NetworkSpec

NETWORK = NetworkSpec("11111111-1111-4111-8111-111111111111", 42, "10.77.0.0/16", "10.77.0.1")
PORT = PortRecord("cnp1", "52:54:00:00:00:01", "10.77.0.2", "port-1", NETWORK.id)
STATE = State().with_network(NetworkRecord(NETWORK, ("10.250.0.2", "10.250.0.3"))).with_port(PORT)


def test_whole_names_every_port_gateway_and_peer() -> None:
    lines = rules.full_ruleset(STATE, vxlan_port=14789).splitlines()
    assert 'add element bridge cenote port_macs { "cnp1" . 52:54:00:00:00:01 }' in lines
    assert 'add element bridge cenote port_addresses { "cnp1" . 52:54:00:00:00:01 . 10.77.0.2 }' in lines
    assert 'add element bridge cenote port_dhcp { "cnp1" . 0x525400000001 }' in lines
    assert f"add element bridge cenote gateway_macs {{ {gateway_mac(NETWORK)} }}" in lines
    assert 'add element bridge cenote gateway_addresses { "cnv2a" . 10.77.0.1 }' in lines
    assert "add element inet cenote peers { 10.250.0.2, 10.250.0.3 }" in lines
    assert 'add element inet cenote bridge_pairs { "cnb2a" . "cnb2a" }' in lines


def test_no_table_but_cenotes_own_is_named() -> None:
    for text in (rules.full_ruleset(STATE, vxlan_port=1), rules.port_added(PORT, vxlan_port=1)):
        for line in text.splitlines():
            words = line.split()
            if words and words[0] in ("add", "delete", "table", "flush"):
                assert "cenote" in words[: 4 if words[0] != "table" else 3], line
        assert "flush ruleset" not in text


def test_empty_state_still_has_all_rules() -> None:
    text = rules.full_ruleset(State(), vxlan_port=14789)
    assert "iifname . ether saddr != @port_macs drop" in text
    assert "add element" not in text


def test_same_state_gives_same_text_whatever_its_order() -> None:
    second = PortRecord("cnp2", "52:54:00:00:00:02", "10.77.0.3", "port-2", NETWORK.id)
    one, other = STATE.with_port(second), State().with_port(second).with_port(PORT)
    other = other.with_network(STATE.networks[NETWORK.id])
    assert rules.full_ruleset(one, vxlan_port=1) == rules.full_ruleset(other, vxlan_port=1)


def test_changes_need_the_rules_of_this_release_and_this_port() -> None:
    marker = rules.port_added(PORT, vxlan_port=14789).splitlines()[0].split()[4]
    assert f"set {marker} " in rules.full_ruleset(STATE, vxlan_port=14789)
    assert f"set {marker} " not in rules.full_ruleset(STATE, vxlan_port=14790)


def test_removing_deletes_exactly_what_adding_added() -> None:
    added = [line for line in rules.port_added(PORT, vxlan_port=1).splitlines() if "rules_" not in line]
    removed = [line for line in rules.port_removed(PORT, vxlan_port=1).splitlines() if line.startswith("delete")]
    assert [line.replace("delete", "add", 1) for line in removed] == added
    assert len(added) == 3
