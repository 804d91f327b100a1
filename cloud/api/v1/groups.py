"""Groups of instances that are kept apart or together."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged
from cloud.api.fields import Answer, Choice, StrictSerializer, Text, Whole
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant, listed_tenant
from compute.models import Group
from compute.models.group import RULES
from compute.selectors.catalog import list_groups
from compute.selectors.lookup import find_among
from compute.services.groups import create_group, delete_group


class GroupAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    tenant_id = serializers.UUIDField()
    rule = serializers.ChoiceField(RULES)
    max_per_domain = serializers.IntegerField(allow_null=True, help_text="members in one failure domain at most")
    instances = serializers.IntegerField(source="members", help_text="how many are in it")
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()


class GroupCreateInput(StrictSerializer):
    name = Text(max_length=63, help_text="lower-case letters, digits, hyphens")
    rule = Choice(RULES, help_text="the soft ones prefer, the others refuse a host")
    max_per_domain = Whole(
        required=False, min_value=1, max_value=1000, help_text="members in one failure domain at most"
    )
    tenant = Text(required=False, help_text="id or name; the token's own unless told")


class GroupListQuery(StrictSerializer):
    tenant = Text(required=False)


class Groups(Door):
    @route("group_list", permission="group.read", query=GroupListQuery, page_of=GroupAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        rows = list_groups(actor=call.actor, tenant_id=listed_tenant(call, "group.read"))
        return page(call.request, rows, lambda row: call.render(GroupAnswer, row))

    @route("group_create", permission="group.create", body=GroupCreateInput, answer=GroupAnswer, status=201)
    def create(self, call: Call) -> Response:
        """A rule for instances that are made with this group."""
        tenant = acting_tenant(call, "group.create")
        group = create_group(
            actor=call.actor,
            tenant=tenant,
            name=call.body["name"],
            rule=call.body["rule"],
            max_per_domain=call.body.get("max_per_domain"),
        )
        shown = call.render(GroupAnswer, list_groups(actor=call.actor).get(id=group.id))
        return Response(shown, status=201, headers={"Location": f"/api/v1/groups/{group.id}"})

    @route("group_show", permission="group.read", query=GroupListQuery, answer=GroupAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        group = _find(call, reference, "group.read")
        return tagged(call.request, call.render(GroupAnswer, group), version=group.version, computed=True)

    @route("group_delete", permission="group.delete", query=GroupListQuery, status=204)
    def destroy(self, call: Call, reference: str) -> Response:
        """Only without instances."""
        delete_group(actor=call.actor, group_id=_find(call, reference, "group.read").id)
        return Response(status=204)


def _find(call: Call, reference: str, permission: str) -> Group:
    rows = list_groups(actor=call.actor, tenant_id=listed_tenant(call, permission))
    return find_among(rows, as_reference(reference), "group")
