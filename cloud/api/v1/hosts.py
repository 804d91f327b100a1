"""Hosts; for the cloud's operators."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged
from cloud.api.fields import Answer, StrictSerializer, Text, render
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from cloud.api.v1.operations import OperationAnswer, operation_url, show_operation
from cloud.api.v1.pools import CapacityAnswer, UsedAnswer
from compute import states
from compute.models import Host, Operation
from compute.selectors.lookup import find_host, find_pool
from compute.selectors.pools import get_host, list_hosts
from compute.services.hosts import (
    create_join_token,
    disable_host,
    enable_host,
    prove_host,
    remove_host,
    set_failure_domain,
)
from tenants.errors import InvalidInput, NotFound
from tenants.services.access import Actor, authorize


class HostPoolAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class TotalAnswer(Answer):
    vcpus = serializers.IntegerField(source="total_vcpus")
    memory_mib = serializers.IntegerField(source="total_memory_mib")
    disk_gib = serializers.IntegerField(source="total_disk_gib")


class HugePagesAnswer(Answer):
    size_kib = serializers.IntegerField()
    total = serializers.IntegerField()
    free = serializers.IntegerField(help_text="used by nobody when the host last looked")


class NumaCellAnswer(Answer):
    id = serializers.IntegerField()
    cpus = serializers.ListField(child=serializers.IntegerField())
    memory_mib = serializers.IntegerField()
    huge_pages = HugePagesAnswer(many=True)
    dedicated = serializers.ListField(
        required=False, child=serializers.IntegerField(), help_text="kept for guests with CPUs of their own"
    )


class NumaUsedAnswer(Answer):
    cell = serializers.IntegerField()
    cpus = serializers.ListField(child=serializers.IntegerField(), help_text="that guests have to themselves")
    memory_mib = serializers.IntegerField(help_text="of guests that asked for a cell, in ordinary pages")
    pages = serializers.DictField(child=serializers.IntegerField(), help_text="huge pages by size in KiB")


class FactsAnswer(Answer):
    """What a host has not said is left out."""

    kernel = serializers.CharField(required=False)
    libvirt_version = serializers.CharField(required=False)
    qemu_version = serializers.CharField(required=False)
    cgroup_version = serializers.IntegerField(required=False)
    migration_address = serializers.CharField(required=False)
    cpu_model = serializers.CharField(required=False, help_text="what its VMs get where their flavor names none")
    cpu_models = serializers.ListField(
        required=False, child=serializers.CharField(), help_text="that VMs can be given, in the mode proved"
    )
    cpu_flags = serializers.ListField(
        required=False, child=serializers.CharField(), help_text="that VMs can be given, in the mode proved"
    )
    networks = serializers.ListField(
        required=False,
        allow_null=True,
        child=serializers.UUIDField(),
        help_text="whose bridge and tunnel are up; null: nobody looks",
    )
    shared_storage_id = serializers.CharField(required=False, help_text="of the storage that it sees")
    images = serializers.ListField(
        required=False, child=serializers.UUIDField(), help_text="checked there, and still as they were"
    )
    numa = NumaCellAnswer(required=False, many=True)


class HostAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    pool = HostPoolAnswer()
    address = serializers.IPAddressField(help_text="on the underlay")
    admin_state = serializers.ChoiceField(sorted(states.HOST_ADMIN))
    observed_state = serializers.ChoiceField(sorted(states.HOST_OBSERVED))
    state_reason = serializers.CharField()
    modes = serializers.ListField(child=serializers.CharField(), help_text="kvm, qemu, lxc: as proved")
    traits = serializers.ListField(child=serializers.CharField())
    failure_domain = serializers.CharField(help_text="what it fails together with; empty: nobody has said")
    total = TotalAnswer(source="*", help_text="the slice of the machine that it offers")
    capacity = CapacityAnswer(source="*", help_text="the most it may carry, by its pool's ratios")
    used = UsedAnswer(source="*")
    instances = serializers.IntegerField(source="used_instances")
    facts = FactsAnswer()
    numa_used = NumaUsedAnswer(many=True, help_text="what guests have of its NUMA cells")
    proof = serializers.JSONField(help_text="what it showed of itself when it was enrolled")
    proved_at = serializers.DateTimeField(allow_null=True)
    last_seen_at = serializers.DateTimeField(allow_null=True)
    clock_skew_seconds = serializers.FloatField()
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()


class HostListQuery(StrictSerializer):
    pool = Text(required=False, help_text="id or name")


class HostUpdateInput(StrictSerializer):
    failure_domain = Text(max_length=63, allow_blank=True, help_text="a rack, a power feed; empty: nothing known")


class DisableInput(StrictSerializer):
    reason = Text(required=False, allow_blank=True)


class JoinTokenInput(StrictSerializer):
    pool = Text(help_text="id or name")
    name = Text(required=False, max_length=63, help_text="of the host; left out: the machine's own")


class JoinTokenAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    pool = serializers.CharField(source="pool.name")
    expires_at = serializers.DateTimeField()
    token = serializers.CharField(help_text="for deploy/join, once; never shown again")


class HostProvingAnswer(Answer):
    operation = OperationAnswer()
    host = HostAnswer()


class Hosts(Door):
    @route("host_list", permission="host.read", query=HostListQuery, page_of=HostAnswer)
    def list(self, call: Call) -> Response:
        """Oldest first."""
        authorize(call.actor, "host.read", None)
        pool = find_pool(call.query["pool"]) if "pool" in call.query else None
        rows = list_hosts(actor=call.actor, pool=pool)
        return page(call.request, rows, lambda row: call.render(HostAnswer, row), newest_first=False)

    @route("host_show", permission="host.read", answer=HostAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        return self._answer(call, get_host(actor=call.actor, reference=as_reference(reference)))

    @route("host_update", permission="host.update", body=HostUpdateInput, answer=HostAnswer)
    def partial_update(self, call: Call, reference: str) -> Response:
        """Say what it fails together with; groups spread over these."""
        host = self._find(call, reference, "host.update")
        domain = call.body["failure_domain"]
        return self._answer(
            call,
            set_failure_domain(actor=call.actor, host_id=host.id, failure_domain=domain, if_version=call.if_version),
        )

    @route("host_delete", permission="host.delete", status=204)
    def destroy(self, call: Call, reference: str) -> Response:
        """Let go of a disabled host that carries nothing."""
        host = self._find(call, reference, "host.delete")
        remove_host(actor=call.actor, host_id=host.id, if_version=call.if_version)
        return Response(status=204)

    @route("host_enable", permission="host.enable", answer=HostAnswer)
    def enable(self, call: Call, reference: str) -> Response:
        """Let placement use it."""
        host = self._find(call, reference, "host.enable")
        return self._answer(call, enable_host(actor=call.actor, host_id=host.id, if_version=call.if_version))

    @route("host_disable", permission="host.disable", body=DisableInput, answer=HostAnswer)
    def disable(self, call: Call, reference: str) -> Response:
        """Take it out of placement; what runs there goes on."""
        host = self._find(call, reference, "host.disable")
        reason = call.body.get("reason", "")
        return self._answer(
            call, disable_host(actor=call.actor, host_id=host.id, reason=reason, if_version=call.if_version)
        )

    @route("host_prove", permission="host.prove", answer=HostProvingAnswer, status=202)
    def prove(self, call: Call, reference: str) -> Response:
        """Have it prove itself again."""
        host = self._find(call, reference, "host.prove")
        host, operation = prove_host(actor=call.actor, host_id=host.id, request_key=call.request_key)
        return _proving(host, operation, call.actor)

    @route(
        "host_create_join_token",
        permission="host.create",
        body=JoinTokenInput,
        answer=JoinTokenAnswer,
        status=201,
        secret=True,
    )
    def create_join_token(self, call: Call) -> Response:
        """A one-time token by which a machine becomes a host of the pool."""
        authorize(call.actor, "host.create", None)
        try:
            pool = find_pool(call.body["pool"])
        except NotFound as error:
            raise InvalidInput.field("/pool", "not_found", error.detail)
        row, secret = create_join_token(actor=call.actor, pool=pool, name=call.body.get("name", ""))
        shown = {"id": row.id, "name": row.name, "pool": pool, "expires_at": row.expires_at, "token": secret}
        return Response(call.render(JoinTokenAnswer, shown), status=201)

    def rebuild(self, operations: Any, actor: Actor) -> Response | None:
        return _proving(Host.objects.select_related("pool").get(id=operations[0].target_id), operations[0], actor)

    def _find(self, call: Call, reference: str, permission: str) -> Host:
        authorize(call.actor, permission, None)
        return find_host(as_reference(reference))

    def _answer(self, call: Call, host: Host) -> Response:
        return tagged(call.request, call.render(HostAnswer, host), version=host.version, computed=True)


def _proving(host: Host, operation: Operation, actor: Actor) -> Response:
    shown = render(HostAnswer, host, is_operator=actor.is_operator)
    body = {"operation": show_operation(operation, actor), "host": shown}
    return Response(body, status=202, headers={"Location": operation_url(operation.id)})
