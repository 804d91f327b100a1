"""Whatever a tenant writes, the domain that libvirt gets has the structure of the harmless one."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from compute.node.drivers.base import Never
from compute.node.drivers.libvirt.cgroups import FEATURES, Cgroups
from compute.node.drivers.libvirt.metadata import (
    METADATA_KEY,
    NAMESPACE,
    metadata_element,
    metadata_text,
    read_metadata,
)
from compute.node.drivers.libvirt.xml import check_allowed, domain_name, node, to_text
from compute.node.drivers.libvirt.xml_container import ALLOWED as CONTAINER_ALLOWED
from compute.node.drivers.libvirt.xml_container import build_container
from compute.node.drivers.libvirt.xml_vm import ALLOWED as VM_ALLOWED
from compute.node.drivers.libvirt.xml_vm import Machine, build_vm
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import image_paths, instance_paths
from compute.wire import InstanceSpec, Kind
from tests.drivers.specs import make_spec

SETTINGS = DriverSettings(vcpus=2, memory_mib=2048, disk_gib=20)
MACHINE = Machine("qemu", "pc-q35-7.2", "Westmere")
CGROUPS = Cgroups(1, frozenset(FEATURES))
# Surrogates too: they come in by JSON's \ud800.
ANY_TEXT = st.text(st.characters(), max_size=60)
HOSTILE = (
    "x</name><devices><disk type='file'><source file='/etc/shadow'/></disk></devices><name>",
    "]]><!--",
    "&xxe;",
    "a\x00b\x1bc\uffff",
    "'\" onload='",
)


def build(spec: InstanceSpec, *, cgroups: Cgroups = CGROUPS, name: str | None = None) -> etree._Element:
    paths = instance_paths(SETTINGS, spec.id)
    bridges = tuple("cnb4d" for _ in spec.nics)
    if spec.kind == "container":
        return build_container(
            spec, token=1, name=name, cgroups=cgroups, settings=SETTINGS, paths=paths, bridges=bridges
        )
    return build_vm(
        spec,
        token=1,
        name=name,
        machine=MACHINE,
        cgroups=cgroups,
        settings=SETTINGS,
        image=image_paths(SETTINGS, spec.disk.image),
        paths=paths,
        bridges=bridges,
    )


def structure(domain: etree._Element) -> list[tuple[str, list[str]]]:
    """Element paths and attribute names, after a journey through text as libvirt reads it."""
    parsed = etree.fromstring(to_text(domain).encode())
    tree = parsed.getroottree()
    return [(tree.getpath(element), sorted(map(str, element.attrib))) for element in parsed.iter()]


def make(kind: Kind, text: str) -> InstanceSpec:
    spec = make_spec(kind, id=str(uuid.UUID(int=5)), name=text, user_data=text, ssh_keys=(text,), tenant_id=text)
    image = dataclasses.replace(spec.disk.image, boot="kernel" if kind == "vm" else "init", kernel_args=text)
    nics = tuple(dataclasses.replace(nic, device=text, mac=text) for nic in spec.nics)
    return dataclasses.replace(spec, disk=dataclasses.replace(spec.disk, image=image), nics=nics)


def part(domain: etree._Element, path: str) -> etree._Element:
    found = domain.find(path)
    assert found is not None, path
    return found


@pytest.mark.parametrize("kind", ["vm", "container"])
@given(text=ANY_TEXT)
def test_any_unicode_leaves_the_structure_unchanged(kind: Kind, text: str) -> None:
    assert structure(build(make(kind, text))) == structure(build(make(kind, "plain")))


@pytest.mark.parametrize("kind", ["vm", "container"])
@pytest.mark.parametrize("text", HOSTILE)
def test_markup_in_every_text_field_stays_text(kind: Kind, text: str) -> None:
    assert structure(build(make(kind, text))) == structure(build(make(kind, "plain")))


@given(text=ANY_TEXT)
def test_domain_name_is_plain_and_unique_by_the_random_end_of_the_id(text: str) -> None:
    name = domain_name(make_spec(id="0190a2b4-0000-7000-8000-c0ffee123456", name=text))
    assert name.startswith("cenote-c0ffee123456")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert len(name) <= 60


def test_domain_keeps_the_name_under_which_it_was_defined() -> None:
    assert build(make_spec(name="new"), name="cenote-old").findtext("name") == "cenote-old"


@pytest.mark.parametrize("kind", ["vm", "container"])
def test_what_the_kernel_cannot_do_is_left_out(kind: Kind) -> None:
    domain = build(make_spec(kind), cgroups=Cgroups(1, frozenset()))
    for tag in ("cputune", "blkiotune", "memtune"):
        assert domain.find(tag) is None


def test_container_is_mapped_to_nobody_and_loses_capabilities() -> None:
    domain = build(make_spec("container"))
    for kind in ("uid", "gid"):
        assert part(domain, f"idmap/{kind}").items() == [("start", "0"), ("target", "100000"), ("count", "65536")]
    assert domain.find("features/privnet") is not None
    assert part(domain, "features/capabilities/mknod").get("state") == "off"


@pytest.mark.parametrize(
    ("shares", "told"), [(1024, "100"), (512, "50"), (1, "1"), (16 * 1024, "1600"), (2**20, "10000")]
)
@pytest.mark.parametrize("kind", ["vm", "container"])
def test_shares_are_told_as_a_weight_under_version_2(kind: Kind, shares: int, told: str) -> None:
    """libvirt passes the number on as it is, and refuses what is above 10000: a guest of ten processors."""
    domain = build(make_spec(kind, cpu_shares=shares), cgroups=Cgroups(2, frozenset(FEATURES)))
    assert domain.findtext("cputune/shares") == told


def test_container_gets_shares_quota_and_limits() -> None:
    domain = build(make_spec("container", vcpus=3, memory_mib=96, cpu_shares=700, io_weight=250))
    told = {tag: domain.findtext(tag) for tag in ("cputune/shares", "cputune/quota", "memtune/hard_limit")}
    assert told == {"cputune/shares": "700", "cputune/quota": "300000", "memtune/hard_limit": "96"}
    assert domain.findtext("blkiotune/weight") == "250"


def test_vm_names_every_format_and_listens_on_no_address() -> None:
    domain = build(make_spec())
    assert [part(disk, "driver").get("type") for disk in domain.iterfind("devices/disk")] == ["qcow2", "raw"]
    listen = part(domain, "devices/graphics/listen")
    assert listen.get("type") == "socket"
    assert part(domain, "os/type").get("machine") == "pc-q35-7.2"


def test_kernel_boot_only_where_the_image_says_so() -> None:
    assert build(make_spec()).find("os/kernel") is None
    booted = build(make("vm", "console=ttyS0"))
    assert booted.findtext("os/cmdline") == "console=ttyS0"
    assert booted.findtext("os/kernel", "").startswith(f"{SETTINGS.shared_dir}/images/")


@pytest.mark.parametrize(
    ("tag", "attributes"),
    [
        ("devices/hostdev", {"mode": "subsystem"}),
        ("devices/emulator", {}),
        ("qemu-commandline", {}),
        ("devices/disk/source", {"file": "/etc/shadow"}),
        ("devices/disk/source", {"file": "/var/lib/cenote/shared/../../../etc/shadow"}),
        ("devices/disk/source", {"file": "relative"}),
        ("devices/serial/log", {"file": "/root/.ssh/authorized_keys"}),
        ("devices/graphics/listen", {"socket": "/tmp/x"}),
        ("devices/disk/shareable", {}),
    ],
)
def test_what_is_not_on_the_list_is_refused(tag: str, attributes: dict[str, str]) -> None:
    domain = build(make_spec())
    *above, last = tag.split("/")
    parent = part(domain, "/".join(above)) if above else domain
    node(parent, last, **attributes)
    with pytest.raises(Never) as caught:
        check_allowed(
            domain, VM_ALLOWED, directories=(SETTINGS.shared_dir, SETTINGS.local_dir), files=("/dev/urandom",)
        )
    assert caught.value.code == "definition_refused"


def test_container_root_outside_of_its_own_directory_is_refused() -> None:
    spec = make_spec("container")
    domain = build(spec)
    part(domain, "devices/filesystem/source").set("dir", "/")
    with pytest.raises(Never):
        check_allowed(domain, CONTAINER_ALLOWED, directories=(instance_paths(SETTINGS, spec.id).shared,))


@pytest.mark.parametrize("bad", ["../../etc", "", "x" * 36, "0190A2B4-0000-7000-8000-C0FFEE123456", "a/b"])
def test_paths_are_built_from_nothing_but_a_uuid(bad: str) -> None:
    with pytest.raises(Never) as caught:
        instance_paths(SETTINGS, bad)
    assert caught.value.code == "id_invalid"
    with pytest.raises(Never):
        image_paths(SETTINGS, dataclasses.replace(make_spec().disk.image, id=bad))


@given(text=ANY_TEXT, token=st.integers(0, 2**62))
def test_metadata_comes_back_as_it_was_written(text: str, token: int) -> None:
    spec = make_spec(tenant_id=text)
    for written in (to_text(metadata_element(spec, token)), metadata_text(spec, token)):
        assert read_metadata(written) == (spec.id, token)


@pytest.mark.parametrize("text", ["", "<broken", "<instance/>", "<instance id='x' token='many'/>"])
def test_unreadable_metadata_is_nobodys(text: str) -> None:
    assert read_metadata(text) == (None, 0)


def test_metadata_is_in_the_project_namespace() -> None:
    element = build(make_spec()).find(f"metadata/{{{NAMESPACE}}}instance")
    assert element is not None
    assert element.prefix == METADATA_KEY


def test_entities_of_a_foreign_domain_are_not_resolved(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    text = f'<!DOCTYPE i [<!ENTITY x SYSTEM "file://{secret}">]><instance id="a">&x;</instance>'
    assert read_metadata(text)[0] in ("a", None)
