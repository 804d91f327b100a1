"""What a tenant and all below it used, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from rest_framework import serializers
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, Moment, StrictSerializer, Text
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import reported_tenant
from cloud.showback_csv import write_lines
from compute.selectors.showback import GROUPS as COST_GROUPS
from compute.selectors.showback import read_showback
from compute.selectors.usage import GROUPS, Period, read_usage
from tenants.models import Tenant

_TENANT_HELP: Final = (
    "id or name, of a deleted one the id; the token's own unless told, for an operator the whole cloud"
)


class AmountsAnswer(Answer):
    """Seconds times amount: one vCPU for an hour is 3600 vCPU-seconds."""

    instance_seconds = serializers.IntegerField()
    vcpu_seconds = serializers.IntegerField()
    memory_mib_seconds = serializers.IntegerField()
    disk_gib_seconds = serializers.IntegerField()


class UsageGroupAnswer(Answer):
    id = serializers.CharField(help_text="of the tenant, flavor, pool or instance; the kind; the day (UTC)")
    name = serializers.CharField()
    amounts = AmountsAnswer()


class ReportedTenantAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class ReportAnswer(Answer):
    """What reports have in common. Periods begin with `from` and end before `to`."""

    tenant = ReportedTenantAnswer(allow_null=True, help_text="null: the whole cloud")
    until = serializers.DateTimeField(source="period.until", help_text="`to`, or now where that is earlier")

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        fields["from"] = serializers.DateTimeField(source="period.start")
        fields["to"] = serializers.DateTimeField(source="period.end")
        return fields


class UsageAnswer(ReportAnswer):
    group_by = serializers.ChoiceField(GROUPS)
    groups = UsageGroupAnswer(many=True)
    total = AmountsAnswer()


class LineAnswer(Answer):
    group = serializers.CharField(help_text="id, as in usage")
    group_name = serializers.CharField()
    resource = serializers.CharField(help_text="instance, vcpu, memory_gib, disk_gib")
    per_hour = serializers.DecimalField(max_digits=18, decimal_places=6)
    unit_seconds = serializers.IntegerField(help_text="exact; of memory in MiB-seconds")
    quantity = serializers.DecimalField(max_digits=40, decimal_places=6, help_text="unit-hours, rounded")
    cost = serializers.DecimalField(max_digits=40, decimal_places=6)


class ShowbackAnswer(ReportAnswer):
    group_by = serializers.ChoiceField(COST_GROUPS)
    currency = serializers.CharField(allow_null=True, help_text="null: no price held in this period")
    lines = LineAnswer(many=True)
    total = serializers.DecimalField(max_digits=40, decimal_places=6, help_text="the sum of the lines")


class PeriodQuery(StrictSerializer):
    tenant = Text(required=False, help_text=_TENANT_HELP)

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        fields["from"] = Moment(required=False, help_text="the first of this month (UTC) unless told")
        fields["to"] = Moment(required=False, help_text="now unless told")
        return fields


class UsageQuery(PeriodQuery):
    group_by = Choice(GROUPS, required=False, help_text="tenant unless told: each branch below, and its own")


class ShowbackQuery(PeriodQuery):
    group_by = Choice(COST_GROUPS, required=False, help_text="tenant unless told")
    format = Choice(["json", "csv"], required=False, help_text="or Accept: text/csv")


class Usage(Door):
    @route("usage_show", permission="usage.read", query=UsageQuery, answer=UsageAnswer)
    def list(self, call: Call) -> Response:
        """Seconds times amount, from when an instance first ran until its room was given back; exact integers."""
        report = read_usage(
            actor=call.actor, tenant=_tenant(call), period=_period(call), group_by=call.query.get("group_by", "tenant")
        )
        return Response(call.render(UsageAnswer, report))


class AsCsv(BaseRenderer):
    """A text that is CSV already; a problem stays a problem."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return (data if isinstance(data, str) else json.dumps(data)).encode()


class FormatFirst(DefaultContentNegotiation):
    """`?format=` says more than an Accept header that a program always sends."""

    def get_accept_list(self, request: Request) -> list[str]:
        if "format" in request.query_params:
            return ["*/*"]
        accepted: list[str] = super().get_accept_list(request)
        return accepted


class ShowbackDoor(Door):
    content_negotiation_class = FormatFirst
    renderer_classes = (JSONRenderer, AsCsv)

    @route("usage_showback", permission="usage.read", query=ShowbackQuery, answer=ShowbackAnswer)
    def list(self, call: Call) -> Response:
        """Usage at the prices of its time. A line is rounded once, half to even, to six places; totals are sums of lines."""
        report = read_showback(
            actor=call.actor, tenant=_tenant(call), period=_period(call), group_by=call.query.get("group_by", "tenant")
        )
        if call.request.accepted_renderer.format == "csv":
            return Response(write_lines(report))
        return Response(call.render(ShowbackAnswer, report))


def _tenant(call: Call) -> Tenant | None:
    if "tenant" not in call.query and call.actor.tenant_id is None:
        return None
    return reported_tenant(call, "usage.read")


def _period(call: Call) -> Period:
    return Period.between(call.query.get("from"), call.query.get("to"))
