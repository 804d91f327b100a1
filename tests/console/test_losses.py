"""The page of a host's loss: it says what follows before it is confirmed, and its buttons do that and no more."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from compute.models import Evacuation, Fence, Host, Instance
from tests.factories.compute import make_host
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud


def test_a_host_is_fenced_evacuated_and_taken_back(people: People, cloud: Cloud) -> None:
    operator, path = people.cloud_operator, f"/console/hosts/{cloud.host.id}"
    cloud.create_running("the-guest")
    make_host(cloud.pool, name="second")
    Host.objects.update(facts={"shared_storage_id": "one"})
    page = operator.get(f"{path}/loss").content.decode()
    assert "the-guest" in page
    assert "on second" in page
    assert "all would come back" in page
    assert "host-vouch" not in page
    assert "I have seen" not in page, "a host that is heard is not fenced"
    seen = timezone.now() - timedelta(minutes=5)
    Host.objects.filter(id=cloud.host.id).update(observed_state="down", last_seen_at=seen)
    assert "a guest may run twice" in operator.get(f"{path}/loss").content.decode()
    assert "notice error" in operator.post(f"{path}/evacuate", follow=True).content.decode()
    assert "notice error" in operator.post(f"{path}/vouch", {"statement": " "}, follow=True).content.decode()
    assert not Fence.objects.exists()
    assert operator.post(f"{path}/vouch", {"statement": "in the bin"})["Location"] == f"{path}/loss"
    assert "in the bin" in operator.get(f"{path}/loss").content.decode()
    operator.post(f"{path}/evacuate")
    assert Evacuation.objects.get().state == "running"
    assert "notice error" in operator.post(f"{path}/return", follow=True).content.decode(), "it is not heard yet"
    Host.objects.filter(id=cloud.host.id).update(last_seen_at=timezone.now())
    operator.post(f"{path}/return")
    assert Host.objects.get(id=cloud.host.id).observed_state == "cleaning"


def test_who_would_not_come_back_is_told_why(people: People, cloud: Cloud) -> None:
    cloud.create_running("the-guest")
    Instance.unscoped.update(evacuation_priority=77)
    page = people.cloud_operator.get(f"/console/hosts/{cloud.host.id}/loss").content.decode()
    assert "1 would not come back" in page
    assert "Its disk lies on this host alone" in page
    assert "77" in page
