"""The audit trail."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Identifier, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import listed_tenant
from tenants import selectors
from tenants.scope import tenant_scope
from tenants.services.access import visible_tenant_ids


class AuditEventAnswer(Answer):
    id = serializers.UUIDField()
    at = serializers.DateTimeField()
    tenant_id = serializers.UUIDField(allow_null=True)
    actor_kind = serializers.CharField(help_text="user, token or system")
    actor_name = serializers.CharField()
    actor_user_id = serializers.UUIDField(allow_null=True)
    actor_token_id = serializers.UUIDField(allow_null=True)
    action = serializers.CharField(help_text="noun.verb, as permissions are named")
    target_type = serializers.CharField()
    target_id = serializers.UUIDField(allow_null=True)
    target_name = serializers.CharField()
    operation_id = serializers.UUIDField(allow_null=True)
    request_id = serializers.CharField()
    before = serializers.DictField(allow_null=True)
    after = serializers.DictField(allow_null=True)


class AuditQuery(StrictSerializer):
    tenant = Text(required=False)
    action = Text(required=False, max_length=64)
    actor = Text(required=False, max_length=128, help_text="user name")
    target = Identifier(required=False, help_text="id of what was changed")
    operation = Identifier(required=False, help_text="id")


class Audit(Door):
    @route("audit_list", permission="audit.read", query=AuditQuery, page_of=AuditEventAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        tenant_id = listed_tenant(call, "audit.read")
        columns = {"action": "action", "actor": "actor_name", "target": "target_id", "operation": "operation_id"}
        wanted = {columns[name]: value for name, value in call.query.items() if name in columns}
        if tenant_id is not None:
            wanted["tenant_id"] = tenant_id
        with tenant_scope(visible_tenant_ids(call.actor, "audit.read")):
            rows = selectors.audit_events().filter(**wanted)  # columns from the table above, never from the request
            return page(call.request, rows, lambda row: call.render(AuditEventAnswer, row), time="at")
