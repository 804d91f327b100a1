"""What CPU tenants got against what they are entitled to: of one host for operators, of its pools for a tenant."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, StrictSerializer, Text
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant
from compute.selectors.pools import get_host
from compute.selectors.shares import read_host_shares, read_tenant_shares


class RatesAnswer(Answer):
    """In vCPU, smoothed over half a minute; of a tenant and all below it."""

    shares = serializers.IntegerField(help_text="against its siblings, by its grant in the pool; 100 is normal")
    delivered = serializers.FloatField(help_text="ran")
    wanted = serializers.FloatField(help_text="ran or was ready to, at most the vCPUs of its guests")
    entitled = serializers.FloatField(help_text="its fair part of all that its hosts delivered")


class SharingTenantAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    parent_id = serializers.UUIDField(allow_null=True)


class HostShareAnswer(RatesAnswer):
    tenant = SharingTenantAnswer()
    applied = serializers.IntegerField(help_text="the shares that the host's kernel holds now")


class HostSharesAnswer(Answer):
    items = HostShareAnswer(many=True, help_text="a tenant before those below it; empty while the host is not heard of")


class SharingPoolAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class PoolShareAnswer(RatesAnswer):
    pool = SharingPoolAnswer()


class TenantSharesAnswer(Answer):
    items = PoolShareAnswer(many=True, help_text="pools where its guests run, by name")


class TenantSharesQuery(StrictSerializer):
    tenant = Text(required=False, help_text="id or name; the token's own unless told")


class Shares(Door):
    @route("host_shares", permission="host.read", answer=HostSharesAnswer)
    def of_host(self, call: Call, reference: str) -> Response:
        """CPU that tenants got on a host, and what they are entitled to there."""
        host = get_host(actor=call.actor, reference=as_reference(reference))
        return Response(call.render(HostSharesAnswer, {"items": read_host_shares(actor=call.actor, host=host)}))

    @route("usage_shares", permission="usage.read", query=TenantSharesQuery, answer=TenantSharesAnswer)
    def of_tenant(self, call: Call) -> Response:
        """CPU that the tenant and all below it got in each pool, and what they are entitled to."""
        tenant = acting_tenant(call, "usage.read", pointer="?tenant")
        items = read_tenant_shares(actor=call.actor, tenant=tenant)
        return Response(call.render(TenantSharesAnswer, {"items": items}))
