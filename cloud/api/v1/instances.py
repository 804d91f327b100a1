"""Instances: VMs and containers. Slow verbs answer 202 with the operation and the instance."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged
from cloud.api.fields import Answer, Choice, Flag, StrictSerializer, Text, Whole, render
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant, listed_tenant
from cloud.api.v1.decisions import DecisionAnswer, show_decision
from cloud.api.v1.forecasts import ForecastAnswer
from cloud.api.v1.leases import LeaseAnswer, LeaseChangeInput, LeaseInput, read_lease
from cloud.api.v1.operations import ErrorAnswer, OperationAnswer, operation_url, show_operation
from cloud.api.v1.resizes import ResizePlanAnswer
from cloud.api.waiting import wait_until
from compute import states
from compute.models import ConsoleLog, Instance, Operation
from compute.selectors.decisions import decision_of
from compute.selectors.instances import get_instance, instance_rows, list_instances, row_of_new, status_of
from compute.selectors.lookup import find_flavor_ever
from compute.selectors.pools import get_host
from compute.services.checks import USER_DATA_LIMIT
from compute.services.console import FRESH_SECONDS, request_console_log
from compute.services.instances_create import create_instances
from compute.services.instances_delete import delete_instance
from compute.services.instances_forecast import forecast_instances
from compute.services.instances_move import check_move, move_instance
from compute.services.instances_power import reboot_instance, start_instance, stop_instance
from compute.services.instances_resize import plan_resize, resize_instance
from compute.services.instances_wanted import COUNT_LIMIT
from compute.services.leases import change_lease
from compute.services.migrations import Terms, check_migration, migrate_instance
from tenants.services.access import Actor, visible_tenant_ids

KINDS: Final = ("vm", "container")


class NamedAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class SizeAnswer(Answer):
    """The flavor's name and the size that the instance was made with."""

    id = serializers.UUIDField(source="flavor.id")
    name = serializers.CharField(source="flavor.name")
    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_gib = serializers.IntegerField()


class AddressAnswer(Answer):
    address = serializers.IPAddressField()
    mac = serializers.CharField()
    network = serializers.CharField(source="network.name")


class VirtMode(serializers.ChoiceField):
    """How an instance runs on the host that it is on; null where it is on none."""

    def to_representation(self, value: Any) -> Any:
        if value.host is None:
            return None
        if value.kind == "container":
            return "lxc"
        return "kvm" if "kvm" in value.host.modes else "qemu"


class InstanceAnswer(Answer):
    operator_only = ("host", "virt_mode")

    id = serializers.UUIDField()
    name = serializers.CharField()
    tenant_id = serializers.UUIDField()
    kind = serializers.ChoiceField(KINDS)
    status = serializers.SerializerMethodField(help_text="what it is doing now, from all that is known")
    state = serializers.ChoiceField(sorted(states.INSTANCE))
    desired_power = serializers.ChoiceField(sorted(states.DESIRED_POWER))
    power = serializers.CharField(allow_null=True, help_text="as its host reported it last")
    power_observed_at = serializers.DateTimeField(allow_null=True)
    flavor = SizeAnswer(source="*")
    image = NamedAnswer()
    default_user = serializers.CharField(source="image.default_user", help_text="who to log in as")
    pool = NamedAnswer()
    evacuation_priority = serializers.IntegerField(help_text="when its host is lost: higher ones come back first")
    disruption = serializers.ChoiceField(
        ["live", "restart", "consent"],
        help_text="how the cloud may move it: while it runs, by a restart, or when asked",
    )
    pause_limit_ms = serializers.IntegerField(allow_null=True, help_text="the longest pause of a live migration")
    lease = LeaseAnswer(source="*", allow_null=True, help_text="null: it may stay for ever")
    group = NamedAnswer(allow_null=True, help_text="that keeps it apart from others, or with them")
    host = NamedAnswer(allow_null=True)
    virt_mode = VirtMode(["kvm", "qemu", "lxc"], source="*", allow_null=True)
    addresses = AddressAnswer(many=True, source="ports.all")
    keypairs = serializers.SerializerMethodField()
    tags = serializers.DictField(child=serializers.CharField())
    error = ErrorAnswer(allow_null=True)
    operation_id = serializers.UUIDField(source="open_operation_id", allow_null=True, help_text="the open one")
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()

    def get_status(self, instance: Instance) -> str:
        return status_of(instance)

    def get_keypairs(self, instance: Instance) -> list[str]:
        return [key["name"] for key in instance.keys]


class InstanceCreateInput(StrictSerializer):
    name = Text(max_length=63, help_text="host name of the guest: lower-case letters, digits, hyphens")
    kind = Choice(KINDS, required=False, help_text="told by the image; given, it has to agree")
    flavor = Text(help_text="id or name")
    image = Text(help_text="id or name")
    pool = Text(required=False, help_text="id or name; may be left out where there is one pool")
    keypairs = serializers.ListField(child=Text(), required=False, max_length=20, help_text="ids or names")
    group = Text(required=False, help_text="id or name: kept apart from its instances, or with them")
    user_data = Text(
        required=False, allow_blank=True, multiline=True, max_length=USER_DATA_LIMIT, help_text="cloud-init"
    )
    tags = serializers.DictField(child=Text(allow_blank=True), required=False)
    lease = LeaseInput(required=False, allow_null=True, help_text="null, or left out: it may stay for ever")
    count = Whole(required=False, min_value=1, max_value=COUNT_LIMIT, help_text="more than one: names get -1 to -N")
    tenant = Text(required=False, help_text="id or name; the token's own unless told")


class ForceInput(StrictSerializer):
    force = Flag(required=False, help_text="cut the power instead of asking the guest")


class ResizeInput(StrictSerializer):
    flavor = Text(help_text="id or name")


class ResizeQuery(StrictSerializer):
    dry_run = Choice(["true", "false"], required=False, help_text="true: say what would happen, change nothing")


class MigrateQuery(StrictSerializer):
    dry_run = Choice(["true", "false"], required=False, help_text="true: say what would happen, change nothing")


class MigrateInput(StrictSerializer):
    """What is left out is as it suits most guests: a first pause of 300 ms, at most 2 s, given up after 10 minutes."""

    destination = Text(required=False, help_text="id or name of a host; left out: the scheduler chooses")
    reason = Text(required=False, allow_blank=True, max_length=255)
    bandwidth_mib_s = Whole(required=False, min_value=0, max_value=1_000_000, help_text="0: as fast as the link is")
    downtime_ms = Whole(required=False, min_value=1, max_value=60_000, help_text="how long it may pause at first")
    downtime_limit_ms = Whole(required=False, min_value=1, max_value=60_000, help_text="and at the most")
    auto_converge = Flag(required=False, help_text="slow its processors down where it writes too fast")
    at_the_end = Choice(["give_up", "pause"], required=False, help_text="where even the longest pause does not suffice")
    deadline_seconds = Whole(required=False, min_value=10, max_value=86_400)


class MoveInput(StrictSerializer):
    destination = Text(required=False, help_text="id or name of a host; left out: the scheduler chooses")
    stop = Flag(required=False, help_text="one that runs is stopped for it, and started at its new host")
    reason = Text(required=False, allow_blank=True, max_length=255)


class ObstacleAnswer(Answer):
    code = serializers.CharField()
    detail = serializers.CharField()


class MigrationCheckAnswer(Answer):
    source = NamedAnswer(allow_null=True)  # type: ignore[assignment]  # the field's name is what hosts and docs call it
    destination = NamedAnswer(allow_null=True, help_text="where it would go; null: it cannot")
    obstacles = ObstacleAnswer(many=True)


class InstanceListQuery(StrictSerializer):
    tenant = Text(required=False)
    name = Text(required=False)
    state = Choice(sorted(states.INSTANCE_LIVE), required=False)
    kind = Choice(KINDS, required=False)
    host = Text(required=False, help_text="id or name; for operators")
    flavor = Text(required=False, help_text="id or name")
    search = Text(
        required=False, max_length=100, help_text="part of the name; with a dot or a colon, the beginning of an address"
    )


class InstanceCreateQuery(StrictSerializer):
    dry_run = Choice(["true", "false"], required=False, help_text="true: say what would happen, take nothing")


class ConsoleLogQuery(StrictSerializer):
    wait = serializers.IntegerField(required=False, min_value=0, max_value=20, help_text="seconds")


class AcceptedAnswer(Answer):
    operation = OperationAnswer()
    instance = InstanceAnswer()


class CreatedAnswer(Answer):
    """`operation` and `instance` are there when one was asked for; the lists always."""

    operations = OperationAnswer(many=True)
    instances = InstanceAnswer(many=True)
    operation = OperationAnswer(required=False)
    instance = InstanceAnswer(required=False)


class ConsoleLogAnswer(Answer):
    text = serializers.CharField(help_text="the newest output, at most 64 KiB")
    fetched_at = serializers.DateTimeField(allow_null=True, help_text="null: nothing has been fetched yet, ask again")


def show_instance(instance: Instance, actor: Actor) -> dict[str, Any]:
    """An instance as the actor may see it; the row comes from `instance_rows`."""
    return render(InstanceAnswer, instance, is_operator=actor.is_operator)


class Instances(Door):
    @route("instance_list", permission="instance.read", query=InstanceListQuery, page_of=InstanceAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        query = call.query
        tenant_id = listed_tenant(call, "instance.read")
        host = get_host(actor=call.actor, reference=query["host"]) if "host" in query else None
        flavor = find_flavor_ever(query["flavor"]) if "flavor" in query else None
        rows = list_instances(
            actor=call.actor,
            tenant_id=tenant_id,
            flavor=flavor,
            state=query.get("state"),
            kind=query.get("kind"),
            name=query.get("name"),
            host=host,
            search=query.get("search"),
        )
        return page(call.request, rows, lambda row: show_instance(row, call.actor))

    @route(
        "instance_create",
        permission="instance.create",
        query=InstanceCreateQuery,
        body=InstanceCreateInput,
        answer=CreatedAnswer,
        dry_answer=ForecastAnswer,
        status=202,
    )
    def create(self, call: Call) -> Response:
        """Make 1 to N instances, all or none. The address is known at once, the guest is up when the operation ends.

        With `?dry_run=true` nothing is made or taken: the answer, 200, is the forecast, also where it is a refusal.
        """
        body = dict(call.body)
        tenant = acting_tenant(call, "instance.create")
        body.pop("tenant", None)
        body["lease"] = read_lease(body.get("lease"))
        if call.query.get("dry_run") == "true":
            return Response(call.render(ForecastAnswer, forecast_instances(actor=call.actor, tenant=tenant, **body)))
        created = create_instances(actor=call.actor, tenant=tenant, request_key=call.request_key, **body)
        rows = {
            instance.id: row_of_new(instance=instance, operation=operation, port=created.ports[instance.id])
            for instance, operation in zip(created.instances, created.operations, strict=True)
        }
        return _created(created.operations, rows, call.actor)

    @route("instance_show", permission="instance.read", answer=InstanceAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        instance = get_instance(actor=call.actor, reference=as_reference(reference))
        return tagged(call.request, show_instance(instance, call.actor), version=instance.version, computed=True)

    @route("instance_delete", permission="instance.delete", answer=AcceptedAnswer, status=202)
    def destroy(self, call: Call, reference: str) -> Response:
        """Delete it with its disk. What is in progress is cancelled first. Room and quota come back at the end."""
        instance = self._find(call, reference)
        _, operation = delete_instance(actor=call.actor, instance_id=instance.id, if_version=call.if_version)
        return _accepted(operation, call.actor)

    @route("instance_start", permission="instance.start", answer=AcceptedAnswer, status=202)
    def start(self, call: Call, reference: str) -> Response:
        return self._order(call, reference, start_instance)

    @route("instance_stop", permission="instance.stop", body=ForceInput, answer=AcceptedAnswer, status=202)
    def stop(self, call: Call, reference: str) -> Response:
        """The guest is asked to stop, for 20 seconds; then, or with `force`, its power is cut."""
        return self._order(call, reference, stop_instance, force=call.body.get("force", False))

    @route("instance_reboot", permission="instance.reboot", body=ForceInput, answer=AcceptedAnswer, status=202)
    def reboot(self, call: Call, reference: str) -> Response:
        return self._order(call, reference, reboot_instance, force=call.body.get("force", False))

    @route(
        "instance_resize",
        permission="instance.resize",
        query=ResizeQuery,
        body=ResizeInput,
        answer=AcceptedAnswer,
        dry_answer=ResizePlanAnswer,
        status=202,
    )
    def resize(self, call: Call, reference: str) -> Response:
        """Give a stopped instance another flavor, on the host that it is on; the guest sees it at its next start. A disk
        never shrinks. What it takes more is charged at once, what it takes less comes back when the operation ends.

        With `?dry_run=true` nothing changes: the answer, 200, tells sizes, prices and what would refuse it.
        """
        if call.query.get("dry_run") == "true":
            instance = self._find(call, reference)
            plan = plan_resize(actor=call.actor, instance_id=instance.id, flavor=call.body["flavor"])
            return Response(call.render(ResizePlanAnswer, plan))
        return self._order(call, reference, resize_instance, flavor=call.body["flavor"])

    @route(
        "instance_migrate",
        permission="instance.migrate",
        query=MigrateQuery,
        body=MigrateInput,
        answer=AcceptedAnswer,
        dry_answer=MigrationCheckAnswer,
        status=202,
    )
    def migrate(self, call: Call, reference: str) -> Response:
        """Move a running VM to another host while it runs; for the cloud's operators. It keeps its addresses.

        Without a destination the scheduler chooses. Cancel the operation to have it stay. With `?dry_run=true` nothing
        is ordered: the answer, 200, names the destination, or every obstacle.
        """
        body = dict(call.body)
        instance = self._find(call, reference)
        named = body.pop("destination", None)
        destination = get_host(actor=call.actor, reference=named) if named is not None else None
        if call.query.get("dry_run") == "true":
            check = check_migration(actor=call.actor, instance_id=instance.id, destination=destination)
            return Response(call.render(MigrationCheckAnswer, check))
        reason = body.pop("reason", "")
        return self._order(
            call, reference, migrate_instance, destination=destination, reason=reason, terms=Terms(**body)
        )

    @route(
        "instance_move",
        permission="instance.migrate",
        query=MigrateQuery,
        body=MoveInput,
        answer=AcceptedAnswer,
        dry_answer=MigrationCheckAnswer,
        status=202,
    )
    def move(self, call: Call, reference: str) -> Response:
        """Take an instance to another host while it does not run; for the cloud's operators. It keeps its addresses.

        One that runs is stopped for it, and started at its new host, only where `stop` says so. With `?dry_run=true`
        nothing is ordered: the answer, 200, names the destination, or every obstacle.
        """
        instance = self._find(call, reference)
        named, stop = call.body.get("destination"), call.body.get("stop", False)
        destination = get_host(actor=call.actor, reference=named) if named is not None else None
        if call.query.get("dry_run") == "true":
            check = check_move(actor=call.actor, instance_id=instance.id, destination=destination, stop=stop)
            return Response(call.render(MigrationCheckAnswer, check))
        reason = call.body.get("reason", "")
        return self._order(call, reference, move_instance, destination=destination, stop=stop, reason=reason)

    @route("instance_lease", permission="instance.update", body=LeaseChangeInput, answer=InstanceAnswer)
    def lease(self, call: Call, reference: str) -> Response:
        """Say when it is stopped or deleted: another lease, or with null none. Whoever is to delete it by that has to
        be allowed to delete it. Once its deletion is ordered no lease keeps it.
        """
        instance = self._find(call, reference)
        change_lease(
            actor=call.actor,
            instance_id=instance.id,
            lease=read_lease(call.body["lease"]),
            if_version=call.if_version,
        )
        return Response(show_instance(get_instance(actor=call.actor, reference=str(instance.id)), call.actor))

    @route("instance_console_log", permission="instance.console_log", query=ConsoleLogQuery, answer=ConsoleLogAnswer)
    def console_log(self, call: Call, reference: str) -> Response:
        """What the guest wrote to its console. The newest known text is answered at once while a newer one is fetched;
        with `?wait=5` the answer waits for that one, 5 seconds at most.
        """
        instance_id = self._find(call, reference).id
        log = request_console_log(actor=call.actor, instance_id=instance_id)
        seconds = call.query.get("wait", 0)
        stale = log is None or log.fetched_at < timezone.now() - timedelta(seconds=FRESH_SECONDS)
        if seconds and stale:
            newer = ConsoleLog.objects.filter(instance_id=instance_id)
            if log is not None:
                newer = newer.filter(fetched_at__gt=log.fetched_at)
            wait_until(newer.exists, seconds=seconds)
            log = ConsoleLog.objects.filter(instance_id=instance_id).first()
        text, fetched_at = ("", None) if log is None else (log.text, log.fetched_at)
        return Response(call.render(ConsoleLogAnswer, {"text": text, "fetched_at": fetched_at}))

    @route("instance_decision", permission="decision.read", answer=DecisionAnswer)
    def decision(self, call: Call, reference: str) -> Response:
        """Why it was placed where it is."""
        instance = get_instance(actor=call.actor, reference=as_reference(reference))
        return Response(show_decision(decision_of(actor=call.actor, instance=instance), call.actor))

    def rebuild(self, operations: Sequence[Operation], actor: Actor) -> Response | None:
        if operations[0].kind == "instance_create":
            return _created(operations, _rows([operation.target_id for operation in operations], actor), actor)
        return _accepted(operations[0], actor)

    def _find(self, call: Call, reference: str) -> Instance:
        """The instance as the caller sees it; the service checks under its lock whether the verb is allowed."""
        return get_instance(actor=call.actor, reference=as_reference(reference))

    def _order(self, call: Call, reference: str, service: Any, **options: Any) -> Response:
        instance = self._find(call, reference)
        _, operation = service(
            actor=call.actor,
            instance_id=instance.id,
            if_version=call.if_version,
            request_key=call.request_key,
            **options,
        )
        return _accepted(operation, call.actor)


def _created(operations: Sequence[Operation], rows: Mapping[uuid.UUID, Instance], actor: Actor) -> Response:
    shown_operations = [show_operation(operation, actor) for operation in operations]
    shown_instances = [
        show_instance(rows[operation.target_id], actor) for operation in operations if operation.target_id in rows
    ]
    body: dict[str, Any] = {"operations": shown_operations, "instances": shown_instances}
    if len(operations) == 1:
        body["operation"] = shown_operations[0]
        body |= {"instance": shown_instances[0]} if shown_instances else {}
    return Response(body, status=202, headers={"Location": operation_url(operations[0].id)})


def _accepted(operation: Operation, actor: Actor) -> Response:
    rows = _rows([operation.target_id], actor)
    body: dict[str, Any] = {"operation": show_operation(operation, actor)}
    if operation.target_id in rows:
        body["instance"] = show_instance(rows[operation.target_id], actor)
    return Response(body, status=202, headers={"Location": operation_url(operation.id)})


def _rows(ids: Sequence[uuid.UUID], actor: Actor) -> dict[uuid.UUID, Instance]:
    """The instances as a list shows them, in one query: what the service returned lacks the annotations."""
    return {row.id: row for row in instance_rows(visible=visible_tenant_ids(actor)).filter(id__in=ids)}
