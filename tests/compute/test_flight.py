"""The flight recorder: what was decided is decided again, bit for bit; another policy is told apart."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from compute.errors import NoValidHost
from compute.models import Decision, Flavor, FlightFrame, Host, Pool
from compute.scheduler.dump import DumpError
from compute.scheduler.flight import replay
from compute.scheduler.model import Policy
from compute.services import flight
from compute.services.flight import expire_frames, flight_lines, set_recording
from compute.services.grants import Terms, create_grant
from compute.services.instances_create import create_instances
from tenants.errors import QuotaExceeded
from tenants.models import Tenant
from tenants.services.quotas import set_limit
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def tenant() -> Tenant:
    make_image("tiny")
    make_flavor("nano", vcpus=1, memory_mib=300)
    pool = make_pool("lab")
    for number in range(20):
        make_host(pool, name=f"lab-{number:02}", vcpus=4, memory_mib=1200 + 7 * number, disk_gib=4)
    set_recording(actor=SYSTEM, pool=pool, on=True)
    return make_tenant("acme")


def _create(tenant: Tenant, name: str, **fields: object) -> None:
    asked: dict[str, object] = {"flavor": "nano", "image": "tiny", **fields}
    create_instances(actor=SYSTEM, tenant=tenant, name=name, **asked)  # type: ignore[arg-type]


@pytest.fixture
def recorded(tenant: Tenant, tmp_path: Path) -> Path:
    """A morning: placements, a batch, a host that comes, one that drains and one that goes, refusals of two kinds."""
    for number in range(12):
        _create(tenant, f"a{number}")
    make_host(Pool.objects.get(), name="new", vcpus=4, memory_mib=4096)
    _create(tenant, "batch", count=7)
    Host.objects.filter(name="lab-03").update(admin_state="draining")
    _create(tenant, "b")
    Host.objects.filter(name="lab-04").update(admin_state="removed")
    _create(tenant, "c")
    make_flavor("huge", vcpus=64)
    with pytest.raises(NoValidHost):
        _create(tenant, "huge", flavor="huge")
    set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=0)
    with pytest.raises(QuotaExceeded):
        _create(tenant, "d")
    file = tmp_path / "flight.jsonl"
    call_command("schedule_dump", "lab", str(file), stdout=io.StringIO())
    return file


def _read(file: Path) -> Iterator[dict[str, object]]:
    yield from map(json.loads, file.read_text().splitlines())


def test_the_same_policy_decides_the_same(recorded: Path) -> None:
    report = replay(_read(recorded))
    assert len(report.decisions) == Decision.unscoped.count() == 17
    assert report.same
    out = io.StringIO()
    call_command("schedule_replay", str(recorded), stdout=out)
    assert "17 decisions, 0 different" in out.getvalue()


def test_frames_hold_what_changed_alone(recorded: Path) -> None:
    frames = [line for line in _read(recorded) if line["kind"] == "frame"]
    assert [len(frame["hosts"]) for frame in frames[:3]] == [20, 1, 1]  # type: ignore[arg-type]
    assert sum(frame["parent"] is None for frame in frames) == 1
    assert len(frames) == 17


@pytest.mark.parametrize("part", ["record", "hosts", "host"])
def test_what_was_tampered_with_is_told(recorded: Path, part: str) -> None:
    lines = list(_read(recorded))
    if part == "hosts":
        lines[1]["hosts"][0]["used"]["vcpus"] = 2  # type: ignore[index]
    else:
        decisions = [line for line in lines if line["kind"] == "decision"]
        decisions[0][part] = decisions[5][part]
    recorded.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(SystemExit) as ended:
        call_command("schedule_replay", str(recorded), stdout=io.StringIO())
    assert ended.value.code == 1


def test_another_policy_is_compared_side_by_side(recorded: Path) -> None:
    report = replay(_read(recorded), policy=Policy("pack"))
    assert (report.recorded.refused, report.now.refused) == (2, 1)  # pack knows of no quota
    assert len(report.recorded.placed) > 2 * len(report.now.placed)
    assert max(report.now.fullest.values()) > max(report.recorded.fullest.values())
    assert max(report.now.fullest.values()) <= 1.0
    out = io.StringIO()
    call_command("schedule_replay", str(recorded), "--policy", "pack", stdout=out)
    assert "hosts used" in out.getvalue()


def test_a_frame_of_a_create_that_was_rolled_back_is_nobodys_parent(tenant: Tenant) -> None:
    _create(tenant, "a")
    set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=1)
    with pytest.raises(QuotaExceeded):
        _create(tenant, "b")
    set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=9)
    _create(tenant, "c")
    report = replay(flight_lines(pool=Pool.objects.get()))
    assert (len(report.decisions), report.same) == (3, True)


def test_only_recorded_pools_are_kept(tenant: Tenant) -> None:
    set_recording(actor=SYSTEM, pool=Pool.objects.get(), on=False)
    _create(tenant, "a")
    assert not FlightFrame.objects.exists()


def test_the_oldest_frames_go_and_what_they_leave_is_told_as_missing(
    tenant: Tenant, settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "_CHAIN_LENGTH", 3)
    for number in range(8):
        _create(tenant, f"a{number}")
    assert FlightFrame.objects.filter(parent=None).count() == 3
    newest = sum(FlightFrame.objects.order_by("-created_at").values_list("size", flat=True)[:3])
    settings.FLIGHT_RECORDER_MIB = newest / 2**20  # type: ignore[attr-defined]
    assert expire_frames() == 5
    report = replay(flight_lines(pool=Pool.objects.get()))
    assert (len(report.decisions), report.missing, report.same) == (2, 6, False)
    assert all(decision.same for decision in report.decisions)


@pytest.mark.parametrize("line", [{}, {"kind": "flight", "version": 2}, {"kind": "frame"}])
def test_what_is_no_flight_is_refused(line: dict[str, object]) -> None:
    with pytest.raises(DumpError):
        replay([line])


def test_what_a_reservation_takes_is_decided_the_same_and_its_batches_are_left_out(tenant: Tenant) -> None:
    flavor, pool = Flavor.objects.get(name="nano"), Pool.objects.get()
    create_grant(actor=SYSTEM, tenant=tenant, pool=pool, flavor=flavor, terms=Terms(units=3))
    _create(tenant, "single")
    _create(tenant, "batch", count=4)
    _create(tenant, "last")
    frames = Decision.unscoped.order_by("created_at").values_list("frame", flat=True)
    assert [frame is not None for frame in frames] == [True, False, True]
    report = replay(flight_lines(pool=pool))
    assert (len(report.decisions), report.same) == (2, True)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]\n", b"\xff\xfe", b"{}\n{}\n"])
def test_a_file_that_is_no_flight_is_named_as_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CommandError):
        call_command("schedule_replay", str(tmp_path / "file"))
