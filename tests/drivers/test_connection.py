"""The one door to libvirt: its error codes in the contract's words, lost connections, and the calls themselves.

Uses libvirt's in-memory test driver, where that is enough; real hypervisors are in test_libvirt_guests.
"""

from __future__ import annotations

import ast
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from compute.node.drivers.base import Never, RetryLater, Unknown
from compute.node.drivers.libvirt.connection import Hypervisor, SeenDomain, translate
from compute.node.drivers.libvirt.metadata import metadata_element, metadata_text
from compute.node.drivers.libvirt.xml import to_text
from tests.drivers.specs import make_spec

REPOSITORY = Path(__file__).resolve().parents[2]


class FakeError(libvirt.libvirtError):  # type: ignore[misc]
    def __init__(self, code: int) -> None:
        Exception.__init__(self, f"code {code}")
        self.err = (code, 0, f"code {code}", 0, "", None, None, 0, 0)


def domain_xml(instance_id: str, name: str, metadata: str = "") -> str:
    return (
        f"<domain type='test'><name>{name}</name><uuid>{instance_id}</uuid><metadata>{metadata}</metadata>"
        "<memory>65536</memory><os><type>hvm</type></os></domain>"
    )


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    opened = Hypervisor("test:///default")
    yield opened
    opened.close()


def must_find(hypervisor: Hypervisor, instance_id: str) -> SeenDomain:
    seen = hypervisor.find(instance_id)
    assert seen is not None
    return seen


@pytest.mark.parametrize("code", [1, 38, 39, 12345])
def test_codes_that_say_nothing_are_unknown(code: int) -> None:
    assert isinstance(translate(FakeError(code)), Unknown)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (libvirt.VIR_ERR_XML_ERROR, Never),
        (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, Never),
        (libvirt.VIR_ERR_NO_SUPPORT, Never),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, RetryLater),
        (libvirt.VIR_ERR_NO_MEMORY, RetryLater),
    ],
)
def test_codes_that_say_something_keep_their_meaning(code: int, kind: type[Exception]) -> None:
    assert isinstance(translate(FakeError(code)), kind)


def test_life_of_a_domain_and_every_call_twice(hypervisor: Hypervisor) -> None:
    spec = make_spec()
    xml = domain_xml(spec.id, "guest", to_text(metadata_element(spec, 4)))
    assert hypervisor.find(spec.id) is None
    for _ in range(2):
        hypervisor.define(xml)
    seen = must_find(hypervisor, spec.id)
    assert (seen.power, seen.persistent, seen.instance_id, seen.token) == ("stopped", True, spec.id, 4)
    for _ in range(2):
        hypervisor.create(spec.id)
    assert must_find(hypervisor, spec.id).power == "running"
    for _ in range(2):
        hypervisor.set_metadata(spec.id, metadata_text(spec, 5), live=True)
    assert must_find(hypervisor, spec.id).token == 5
    for _ in range(2):
        hypervisor.cut_power(spec.id)
    assert must_find(hypervisor, spec.id).power == "stopped"
    assert must_find(hypervisor, spec.id).token == 5
    for _ in range(2):
        hypervisor.undefine(spec.id)
    assert hypervisor.find(spec.id) is None
    assert hypervisor.definition(spec.id) is None


def test_name_taken_by_another_domain_is_never(hypervisor: Hypervisor) -> None:
    hypervisor.define(domain_xml(str(uuid.uuid4()), "taken"))
    with pytest.raises(Never) as caught:
        hypervisor.define(domain_xml(str(uuid.uuid4()), "taken"))
    assert caught.value.code == "name_taken"


def test_broken_definition_is_never(hypervisor: Hypervisor) -> None:
    with pytest.raises(Never) as caught:
        hypervisor.define("<domain type='test'><name>a/b</name></domain>")
    assert caught.value.code == "definition_refused"


def test_domain_without_our_metadata_or_with_that_of_another_is_foreign(hypervisor: Hypervisor) -> None:
    plain, cloned = str(uuid.uuid4()), str(uuid.uuid4())
    hypervisor.define(domain_xml(plain, "plain"))
    hypervisor.define(domain_xml(cloned, "cloned", to_text(metadata_element(make_spec(), 1))))
    seen = {domain.uuid: domain.instance_id for domain in hypervisor.list_domains()}
    assert seen[plain] is None
    assert seen[cloned] is None


def test_start_of_a_vanished_domain_is_unknown(hypervisor: Hypervisor) -> None:
    with pytest.raises(Unknown):
        hypervisor.create(str(uuid.uuid4()))


def test_unreachable_daemon_is_unknown() -> None:
    hypervisor = Hypervisor("qemu+unix:///system?socket=/nonexistent/socket")
    for call in (hypervisor.list_domains, lambda: hypervisor.find(str(uuid.uuid4())), hypervisor.versions):
        with pytest.raises(Unknown) as caught:
            call()
        assert caught.value.code == "libvirt_unreachable"


def test_closed_connection_is_opened_again(hypervisor: Hypervisor) -> None:
    hypervisor.versions()
    hypervisor.close()
    assert hypervisor.list_domains()


def test_connection_refuses_to_cross_a_fork(hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    hypervisor.versions()
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(Unknown) as caught:
        hypervisor.versions()
    assert caught.value.code == "forked"


def test_many_threads_share_a_connection(hypervisor: Hypervisor) -> None:
    failures: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(50):
                assert hypervisor.list_domains()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_one_module_only_imports_libvirt() -> None:
    importers = set()
    for path in REPOSITORY.glob("c*/**/*.py"):
        for found in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = (
                [alias.name for alias in found.names]
                if isinstance(found, ast.Import)
                else [found.module or ""]
                if isinstance(found, ast.ImportFrom) and found.level == 0
                else []
            )
            if any(name.split(".")[0] == "libvirt" for name in names):
                importers.add(path.relative_to(REPOSITORY).as_posix())
    assert importers == {"compute/node/drivers/libvirt/connection.py"}
