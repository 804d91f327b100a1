"""Grants: a tenant's promise, limits and weight in a pool. Alarms: what cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged, wanted_version
from cloud.api.fields import Answer, Choice, Flag, StrictSerializer, Text, Whole
from cloud.api.pagination import page
from cloud.api.references import as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant, listed_tenant
from cloud.api.v1.instances import NamedAnswer
from compute.models import Grant
from compute.selectors.grants import get_grant, list_alarms, list_grants
from compute.selectors.lookup import find_flavor, find_pool
from compute.services.grants import Terms, create_grant, delete_grant, update_grant
from tenants.errors import InvalidInput, NotFound

_AMOUNTS = "vcpus, memory_mib, disk_gib"


class ReservationAnswer(Answer):
    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_gib = serializers.IntegerField()


class UnitAnswer(Answer):
    name = serializers.CharField(source="unit_name", help_text="the flavor that it was taken from")
    kind = serializers.ChoiceField(["", "vm", "container"], source="unit_kind", help_text="empty: either")
    vcpus = serializers.IntegerField(source="unit_vcpus")
    memory_mib = serializers.IntegerField(source="unit_memory_mib")
    disk_gib = serializers.IntegerField(source="unit_disk_gib")


class SharesAnswer(Answer):
    vcpus = serializers.IntegerField(source="shares_vcpus")
    memory_mib = serializers.IntegerField(source="shares_memory_mib")
    disk_gib = serializers.IntegerField(source="shares_disk_gib")


class GrantLimitAnswer(Answer):
    resource = serializers.CharField()
    limit = serializers.IntegerField(allow_null=True, help_text="null: none")
    used = serializers.IntegerField(help_text="by the tenant and all below it in this pool, promised or not")
    over = serializers.IntegerField(help_text="by how much the use is over a limit that was lowered below it")


class GrantAnswer(Answer):
    id = serializers.UUIDField()
    tenant = NamedAnswer()
    pool = NamedAnswer()
    parent_id = serializers.UUIDField(allow_null=True, help_text="the grant that its units come out of; null: the pool")
    unit = UnitAnswer(source="*")
    units = serializers.IntegerField(help_text="how many guests of the unit can be placed at any time")
    used_units = serializers.IntegerField(help_text="slots filled by own guests, and units of grants below")
    expandable = serializers.BooleanField(help_text="may draw on what the grant above has left")
    reservation = serializers.SerializerMethodField()
    shares = SharesAnswer(source="*", help_text="weight against other tenants; 100 is normal")
    limits = serializers.SerializerMethodField()
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()

    @extend_schema_field(ReservationAnswer)
    def get_reservation(self, grant: Grant) -> dict[str, int]:
        unit = {"vcpus": grant.unit_vcpus, "memory_mib": grant.unit_memory_mib, "disk_gib": grant.unit_disk_gib}
        return {name: grant.units * amount for name, amount in unit.items()}

    @extend_schema_field(GrantLimitAnswer(many=True))
    def get_limits(self, grant: Grant) -> Any:
        return GrantLimitAnswer(sorted(grant.limits.all(), key=lambda row: row.resource), many=True).data


class GrantListQuery(StrictSerializer):
    tenant = Text(required=False, help_text="id or name")
    pool = Text(required=False, help_text="id or name")


class GrantUpdateInput(StrictSerializer):
    units = Whole(required=False, max_value=1_000_000, help_text="reservation, in units")
    expandable = Flag(required=False)
    shares = serializers.DictField(child=Whole(), required=False, help_text=f"1 to 10000, by {_AMOUNTS}")
    limits = serializers.DictField(child=Whole(allow_null=True), required=False, help_text=f"null: none, by {_AMOUNTS}")


class GrantCreateInput(GrantUpdateInput):
    tenant = Text(help_text="id or name")
    pool = Text(help_text="id or name")
    unit = Text(
        required=False, help_text="flavor (id or name) that the promise must be able to place; as above unless told"
    )


class AlarmListQuery(StrictSerializer):
    history = Choice(["true", "false"], required=False, help_text="true: those that are over as well")


class AlarmAnswer(Answer):
    id = serializers.UUIDField()
    kind = serializers.ChoiceField(["promise_at_risk", "promise_broken"])
    pool = NamedAnswer()
    message = serializers.CharField()
    details = serializers.DictField(help_text="promised, placeable, host_losses, tolerated, tenants")
    raised_at = serializers.DateTimeField()
    cleared_at = serializers.DateTimeField(allow_null=True)


def _terms(body: Mapping[str, Any]) -> Terms:
    return Terms(**{name: body.get(name) for name in ("units", "expandable", "shares", "limits")})


def _found(name: str, find: Any, reference: str) -> Any:
    try:
        return find(reference)
    except NotFound as error:
        raise InvalidInput.field(f"/{name}", "not_found", error.detail)


class Grants(Door):
    @route("grant_list", permission="grant.read", query=GrantListQuery, page_of=GrantAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        pool = find_pool(call.query["pool"]) if "pool" in call.query else None
        rows = list_grants(actor=call.actor, tenant_id=listed_tenant(call, "grant.read"), pool=pool)
        return page(call.request, rows, lambda row: call.render(GrantAnswer, row))

    @route("grant_create", permission="grant.create", body=GrantCreateInput, answer=GrantAnswer, status=201)
    def create(self, call: Call) -> Response:
        """Promise a tenant room in a pool, out of the next grant above it, a topmost one out of the pool (operators).

        Room is set aside on hosts so that the promise outlives as many host losses as the pool's policy names.
        """
        tenant = acting_tenant(call, "grant.read")
        body = call.body
        grant = create_grant(
            actor=call.actor,
            tenant=tenant,
            pool=_found("pool", find_pool, body["pool"]),
            flavor=_found("unit", find_flavor, body["unit"]) if "unit" in body else None,
            terms=_terms(body),
        )
        return Response(call.render(GrantAnswer, grant), status=201, headers={"Location": f"/api/v1/grants/{grant.id}"})

    @route("grant_show", permission="grant.read", answer=GrantAnswer, paths={"grant_id": "id"})
    def retrieve(self, call: Call, grant_id: str) -> Response:
        grant = get_grant(actor=call.actor, grant_id=as_uuid(grant_id))
        return tagged(call.request, call.render(GrantAnswer, grant), version=grant.version, computed=True)

    @route(
        "grant_update",
        permission="grant.update",
        body=GrantUpdateInput,
        answer=GrantAnswer,
        paths={"grant_id": "id"},
    )
    def partial_update(self, call: Call, grant_id: str) -> Response:
        """Change what is told. Units cannot go below those in use; limits can: what runs stays, nothing new is taken."""
        grant = get_grant(actor=call.actor, grant_id=as_uuid(grant_id))
        version = wanted_version(call.request)
        grant = update_grant(actor=call.actor, grant_id=grant.id, terms=_terms(call.body), if_version=version)
        return tagged(call.request, call.render(GrantAnswer, grant), version=grant.version, computed=True)

    @route("grant_delete", permission="grant.delete", status=204, paths={"grant_id": "id"})
    def destroy(self, call: Call, grant_id: str) -> Response:
        """Take a promise back. Guests go on: on the grant above as far as it reaches, else unreserved."""
        grant = get_grant(actor=call.actor, grant_id=as_uuid(grant_id))
        delete_grant(actor=call.actor, grant_id=grant.id, if_version=wanted_version(call.request))
        return Response(status=204)


class Alarms(Door):
    @route("alarm_list", permission="alarm.read", query=AlarmListQuery, page_of=AlarmAnswer)
    def list(self, call: Call) -> Response:
        """What an operator has to know until it is mended, newest first."""
        rows = list_alarms(actor=call.actor, open_only=call.query.get("history") != "true")
        return page(call.request, rows, lambda row: call.render(AlarmAnswer, row), time="raised_at")
