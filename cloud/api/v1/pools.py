"""Pools: hosts that share storage, a network and overcommit ratios."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged, wanted_version
from cloud.api.fields import Answer, Choice, Flag, Number, StrictSerializer, Text, Whole
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from compute.scheduler.model import RESOURCES
from compute.selectors.capacity import read_capacity
from compute.selectors.lookup import find_pool
from compute.selectors.pools import get_pool, list_pools
from compute.services.catalog import create_pool, update_pool
from tenants.services.access import authorize


class CapacityAnswer(Answer):
    vcpus = serializers.IntegerField(source="ceiling_vcpus")
    memory_mib = serializers.IntegerField(source="ceiling_memory_mib")
    disk_gib = serializers.IntegerField(source="ceiling_disk_gib")


class UsedAnswer(Answer):
    vcpus = serializers.IntegerField(source="used_vcpus")
    memory_mib = serializers.IntegerField(source="used_memory_mib")
    disk_gib = serializers.IntegerField(source="used_disk_gib")


class HeldAnswer(Answer):
    vcpus = serializers.IntegerField(source="held_vcpus")
    memory_mib = serializers.IntegerField(source="held_memory_mib")
    disk_gib = serializers.IntegerField(source="held_disk_gib")


class PoolAnswer(Answer):
    """How large a pool is, and how full, is for operators."""

    operator_only = (
        "vcpu_ratio",
        "policy",
        "host_losses",
        "auto_fence",
        "auto_evacuate",
        "held",
        "hosts_total",
        "hosts_up",
        "instances",
        "capacity",
        "used",
    )

    id = serializers.UUIDField()
    name = serializers.CharField()
    description = serializers.CharField()
    vcpu_ratio = serializers.FloatField()
    policy = serializers.ChoiceField(["spread", "pack"])
    host_losses = serializers.IntegerField(help_text="host failures at once that every reservation must outlive")
    auto_fence = serializers.BooleanField(help_text="whether hosts that are down are fenced unasked")
    auto_evacuate = serializers.BooleanField(help_text="whether a fenced host's guests are moved unasked")
    hosts_total = serializers.IntegerField()
    hosts_up = serializers.IntegerField(help_text="enabled and answering")
    instances = serializers.IntegerField()
    capacity = CapacityAnswer(source="*", help_text="what the hosts in service can carry")
    used = UsedAnswer(source="*")
    held = HeldAnswer(source="*", help_text="set aside for promises and not in use")
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()


class PoolCreateInput(StrictSerializer):
    name = Text(max_length=63)
    cidr = Text(max_length=43, help_text="of the pool's network, for example 10.80.0.0/20")
    vcpu_ratio = Number(required=False, min_value=1, max_value=64)
    policy = Choice(["spread", "pack"], required=False)
    description = Text(required=False, allow_blank=True)


class PoolUpdateInput(StrictSerializer):
    vcpu_ratio = Number(required=False, min_value=1, max_value=64)
    host_losses = Whole(required=False, max_value=100, help_text="N+k: host failures that reservations must outlive")
    auto_fence = Flag(required=False, help_text="fence hosts that are down, unasked, where a driver is configured")
    auto_evacuate = Flag(required=False, help_text="move the guests of a fenced host, unasked")


class TrendAnswer(Answer):
    """Days until the free room is used up at the mean daily change; `soonest` and `latest` at the ends of its 90 % interval,
    null where it would never be. As if days were independent of each other."""

    days = serializers.IntegerField(help_text="whole days that the rate comes from")
    per_day = serializers.FloatField()
    low = serializers.FloatField(help_text="of the rate")
    high = serializers.FloatField(help_text="of the rate")
    expected = serializers.FloatField(allow_null=True)
    soonest = serializers.FloatField(allow_null=True)
    latest = serializers.FloatField(allow_null=True)


class ResourceRoomAnswer(Answer):
    """One resource of the hosts in service: used + held + free is the capacity, but for hosts that shrank."""

    total = serializers.IntegerField(help_text="of the machines")
    reserved = serializers.IntegerField(help_text="kept for the machines themselves")
    ratio = serializers.FloatField(help_text="overcommit")
    capacity = serializers.IntegerField()
    used = serializers.IntegerField()
    held = serializers.IntegerField(help_text="set aside for promises and not in use")
    free = serializers.IntegerField()
    stranded = serializers.IntegerField(help_text="free on hosts that take none of the flavors any more")
    away = serializers.IntegerField(help_text="used on hosts out of service")
    trend = TrendAnswer(allow_null=True, help_text="null: fewer than seven whole days of history")


class RoomAnswer(Answer):
    vcpus = ResourceRoomAnswer()
    memory_mib = ResourceRoomAnswer()
    disk_gib = ResourceRoomAnswer()


class HeadroomAnswer(Answer):
    """How many more fit now, each flavor by itself."""

    count = serializers.IntegerField()
    hosts = serializers.IntegerField(help_text="on how many")
    undivided = serializers.IntegerField(help_text="how many would, were the free room in one piece")
    limited_by = serializers.ChoiceField(RESOURCES, allow_null=True, help_text="what runs out first on most hosts")


class FitAnswer(Answer):
    flavor = serializers.CharField(source="flavor.name")
    vm = HeadroomAnswer()
    container = HeadroomAnswer()


class LargestAnswer(Answer):
    vm = serializers.CharField(allow_null=True)
    container = serializers.CharField(allow_null=True)


class HostStatesAnswer(Answer):
    admin_state = serializers.CharField()
    observed_state = serializers.CharField()
    hosts = serializers.IntegerField()


class FullHostAnswer(Answer):
    id = serializers.CharField(source="host_id")
    name = serializers.CharField()
    share = serializers.FloatField(help_text="of the resource that it has least left of, 0 to 1")
    resource = serializers.ChoiceField(RESOURCES)
    instances = serializers.IntegerField()


class PromisedUnitAnswer(Answer):
    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_gib = serializers.IntegerField()
    kind = serializers.CharField(help_text="empty: either kind")


class PromiseAnswer(Answer):
    """How the promises of one unit stand. `tolerated`: host losses that they outlive, -1 where they cannot be kept now."""

    unit = PromisedUnitAnswer()
    promised = serializers.IntegerField()
    slots = serializers.IntegerField()
    tolerated = serializers.IntegerField()


class TopTenantAnswer(Answer):
    """A top tenant with all below it."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    instances = serializers.IntegerField()
    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_gib = serializers.IntegerField()


class PoolCapacityAnswer(Answer):
    pool = serializers.CharField(source="pool.name")
    at = serializers.DateTimeField()
    hosts = serializers.IntegerField()
    host_losses = serializers.IntegerField(source="pool.host_losses", help_text="the pool's policy, N+k")
    amounts = RoomAnswer()
    fits = FitAnswer(many=True)
    largest = LargestAnswer(help_text="name of the largest flavor that fits")
    states = HostStatesAnswer(many=True)
    fullest = FullHostAnswer(many=True)
    promises = PromiseAnswer(many=True)
    tenants = TopTenantAnswer(many=True, help_text="most memory first")


class Pools(Door):
    @route("pool_list", permission="pool.read", page_of=PoolAnswer)
    def list(self, call: Call) -> Response:
        """Oldest first."""
        rows = list_pools(actor=call.actor)
        return page(call.request, rows, lambda row: call.render(PoolAnswer, row), newest_first=False)

    @route("pool_create", permission="pool.create", body=PoolCreateInput, answer=PoolAnswer, status=201)
    def create(self, call: Call) -> Response:
        """Make a pool with its network; for operators."""
        pool = create_pool(actor=call.actor, **call.body)
        shown = call.render(PoolAnswer, get_pool(actor=call.actor, reference=str(pool.id)))
        return Response(shown, status=201, headers={"Location": f"/api/v1/pools/{pool.id}"})

    @route("pool_show", permission="pool.read", answer=PoolAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        pool = get_pool(actor=call.actor, reference=as_reference(reference))
        return tagged(call.request, call.render(PoolAnswer, pool), version=pool.version, computed=True)

    @route("pool_capacity", permission="host.read", answer=PoolCapacityAnswer)
    def capacity(self, call: Call, reference: str) -> Response:
        """How full the pool is, what still fits, and how long it lasts; for operators."""
        authorize(call.actor, "host.read", None)
        found = read_capacity(actor=call.actor, pool=find_pool(as_reference(reference)))
        return Response(call.render(PoolCapacityAnswer, found))

    @route("pool_update", permission="pool.update", body=PoolUpdateInput, answer=PoolAnswer)
    def partial_update(self, call: Call, reference: str) -> Response:
        """Change how many vCPU a thread carries, how many host losses promises must outlive, what a loss sets going."""
        authorize(call.actor, "pool.update", None)
        found = find_pool(as_reference(reference))
        pool = update_pool(actor=call.actor, pool_id=found.id, if_version=wanted_version(call.request), **call.body)
        shown = call.render(PoolAnswer, get_pool(actor=call.actor, reference=str(pool.id)))
        return tagged(call.request, shown, version=pool.version, computed=True)
