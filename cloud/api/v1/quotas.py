"""Quotas: what a tenant and all below it may use, and do use."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, StrictSerializer, Text, Whole
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant
from tenants.models import Tenant
from tenants.services.access import authorize_from_above
from tenants.services.quotas import set_limits, summary


class QuotaLineAnswer(Answer):
    resource = serializers.CharField(help_text="counts, or an amount in the unit that the name ends in")
    limit = serializers.IntegerField(allow_null=True, help_text="null: none at this level")
    used = serializers.IntegerField(help_text="by the tenant and all below it")
    over = serializers.IntegerField(
        help_text="by how much the use is above a limit that was lowered: what exists stays, nothing new is taken"
    )
    available = serializers.IntegerField(
        allow_null=True, help_text="what the levels above leave as well; null: no limit"
    )


class QuotasAnswer(Answer):
    tenant_id = serializers.UUIDField()
    items = QuotaLineAnswer(many=True)


class QuotaQuery(StrictSerializer):
    tenant = Text(required=False, help_text="id or name; the token's own unless told")


class QuotaUpdateInput(StrictSerializer):
    limits = serializers.DictField(child=Whole(allow_null=True), help_text="resource -> limit, null: none")


class Quotas(Door):
    @route("quota_list", permission="quota.read", query=QuotaQuery, answer=QuotasAnswer)
    def list(self, call: Call) -> Response:
        """Every resource of the tenant."""
        return self._answer(call, acting_tenant(call, "quota.read", pointer="?tenant"))

    @route("quota_update", permission="quota.update", query=QuotaQuery, body=QuotaUpdateInput, answer=QuotasAnswer)
    def partial_update(self, call: Call) -> Response:
        """Set limits, all or none. They are decided by the tenant above, a top tenant's by the cloud's operators."""
        tenant = acting_tenant(call, "quota.read", pointer="?tenant")
        authorize_from_above(call.actor, "quota.update", tenant)
        set_limits(actor=call.actor, tenant=tenant, limits=call.body["limits"])
        return self._answer(call, tenant)

    def _answer(self, call: Call, tenant: Tenant) -> Response:
        return Response(call.render(QuotasAnswer, {"tenant_id": tenant.id, "items": summary(tenant)}))
