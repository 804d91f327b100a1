"""Who belongs to a tenant, as what."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant
from tenants import roles, selectors
from tenants.errors import InvalidInput, NotFound
from tenants.services.members import add_member, change_role, remove_member


class MemberAnswer(Answer):
    id = serializers.UUIDField()
    tenant_id = serializers.UUIDField()
    user_id = serializers.UUIDField()
    username = serializers.CharField(source="user.username")
    role = serializers.ChoiceField(roles.ROLES)
    created_at = serializers.DateTimeField()


class MemberCreateInput(StrictSerializer):
    user = Text(max_length=64, help_text="id or name")
    role = Choice(roles.ROLES)
    tenant = Text(required=False, help_text="id or name; the token's own unless told")


class MemberUpdateInput(StrictSerializer):
    role = Choice(roles.ROLES)


class MemberQuery(StrictSerializer):
    tenant = Text(required=False, help_text="id or name; the token's own unless told")


class Members(Door):
    @route("member_list", permission="member.read", query=MemberQuery, page_of=MemberAnswer)
    def list(self, call: Call) -> Response:
        """The tenant's own members, oldest first; roles are inherited from the tenants above as well."""
        tenant = acting_tenant(call, "member.read", pointer="?tenant")
        rows = selectors.members(tenant)
        return page(call.request, rows, lambda row: call.render(MemberAnswer, row), newest_first=False)

    @route("member_create", permission="member.create", body=MemberCreateInput, answer=MemberAnswer, status=201)
    def create(self, call: Call) -> Response:
        """Give a user a role, at most your own."""
        tenant = acting_tenant(call, "member.create")
        try:
            user = selectors.get_user(call.body["user"])
        except NotFound:
            raise InvalidInput.field("/user", "not_found", "There is no such user.")
        member = add_member(actor=call.actor, tenant=tenant, user=user, role=call.body["role"])
        return Response(
            call.render(MemberAnswer, member), status=201, headers={"Location": f"/api/v1/members/{member.id}"}
        )

    @route("member_show", permission="member.read", query=MemberQuery, answer=MemberAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        tenant = acting_tenant(call, "member.read", pointer="?tenant")
        return Response(call.render(MemberAnswer, selectors.get_member(tenant, as_reference(reference))))

    @route("member_update", permission="member.update", body=MemberUpdateInput, query=MemberQuery, answer=MemberAnswer)
    def partial_update(self, call: Call, reference: str) -> Response:
        tenant = acting_tenant(call, "member.update", pointer="?tenant")
        member = selectors.get_member(tenant, as_reference(reference))
        changed = change_role(actor=call.actor, tenant=tenant, user=member.user, role=call.body["role"])
        return Response(call.render(MemberAnswer, changed))

    @route("member_delete", permission="member.delete", query=MemberQuery, status=204)
    def destroy(self, call: Call, reference: str) -> Response:
        """Take the role away; the user's tokens that lose their footing are revoked."""
        tenant = acting_tenant(call, "member.delete", pointer="?tenant")
        member = selectors.get_member(tenant, as_reference(reference))
        remove_member(actor=call.actor, tenant=tenant, user=member.user)
        return Response(status=204)
