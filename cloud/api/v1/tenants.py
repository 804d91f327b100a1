"""Tenants of the tree."""

from __future__ import annotations

import dataclasses
from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged
from cloud.api.fields import Answer, Choice, StrictSerializer, Text, Whole
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from cloud.api.v1.decisions import QuotaEffectAnswer
from cloud.api.v1.operations import OperationAnswer, operation_url, show_operation
from compute.services.tenants_delete import delete_empty_tenant, delete_tenant_with_contents, plan_tenant_delete
from compute.services.tenants_move import move_tenant_with_guests, plan_tenant_move
from tenants import roles, selectors
from tenants.errors import InvalidInput, NotFound
from tenants.models import Tenant
from tenants.scope import tenant_scope
from tenants.services.access import authorize, visible_tenant_ids
from tenants.services.moves import Move
from tenants.services.quota_forecast import shown_lines
from tenants.services.tenants import create_tenant, rename_tenant, set_tenant_state


class TenantAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    parent_id = serializers.UUIDField(allow_null=True, help_text="null: a top tenant, or one above yours")
    state = serializers.ChoiceField(["active", "disabled", "deleting"])
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()


class TenantCreateInput(StrictSerializer):
    name = Text(max_length=63)
    parent = Text(required=False, help_text="id or name; the token's own unless told")  # type: ignore[assignment]  # a field
    owner = Text(required=False, max_length=64, help_text="id or name of a user")
    limits = serializers.DictField(
        child=Whole(allow_null=True), required=False, help_text="resource -> limit, null: none"
    )


class TenantUpdateInput(StrictSerializer):
    name = Text(required=False, max_length=63)
    state = Choice(["active", "disabled"], required=False)


class TenantMoveInput(StrictSerializer):
    parent = Text(allow_null=True, help_text="id or name of the new one; null: none, to the top (operators)")  # type: ignore[assignment]  # a field


class TenantMoveQuery(StrictSerializer):
    dry_run = Choice(["true", "false"], required=False, help_text="true: say what would happen, change nothing")


class AccessChangeAnswer(Answer):
    username = serializers.CharField()
    before = serializers.ChoiceField(roles.ROLES, allow_null=True, help_text="null: no access")
    after = serializers.ChoiceField(roles.ROLES, allow_null=True, help_text="null: no access")


class TenantMoveAnswer(Answer):
    tenant = TenantAnswer()
    parent_id = serializers.UUIDField(allow_null=True, help_text="the new parent")
    dry_run = serializers.BooleanField()
    tenants = serializers.IntegerField(help_text="how many move, with the tenant itself")
    amounts = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="resource -> what leaves the old place's sums and enters the new one's",
    )
    shortages = QuotaEffectAnswer(many=True, help_text="limits without room for it: why the move would be refused")
    access = AccessChangeAnswer(many=True, help_text="whose strongest role in the tenant changes")
    hidden_gains = serializers.IntegerField(
        help_text="members of tenants you do not see who gain access or a stronger role"
    )
    hidden_losses = serializers.IntegerField(help_text="the same, who lose")
    tokens_revoked = serializers.IntegerField(
        help_text="tokens whose user has no role at the new place", source="tokens"
    )


class TenantDeleteQuery(StrictSerializer):
    cascade = Choice(["true", "false"], required=False, help_text="true: with all that it holds, as an operation")
    fingerprint = Text(
        required=False,
        max_length=64,
        help_text="with cascade: of the dry run that was agreed to; refused once it differs",
    )
    dry_run = Choice(["true", "false"], required=False, help_text="true: say what cascade would delete, change nothing")


class ListedInstanceAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    tenant = serializers.CharField(help_text="path of names")


class ListedGrantAnswer(Answer):
    tenant = serializers.CharField(help_text="path of names")
    pool = serializers.CharField()
    unit = serializers.CharField(help_text="the flavor that its unit was taken from")
    units = serializers.IntegerField(help_text="what it reserves")


class ContentsCountsAnswer(Answer):
    instances = serializers.IntegerField()
    addresses = serializers.IntegerField()
    keypairs = serializers.IntegerField()
    groups = serializers.IntegerField()
    grants = serializers.IntegerField()
    tenants = serializers.IntegerField(help_text="with the tenant itself")
    members = serializers.IntegerField()
    tokens = serializers.IntegerField(help_text="those in force")


class TenantContentsAnswer(Answer):
    counts = ContentsCountsAnswer()
    instances = ListedInstanceAnswer(many=True, help_text="in the order of their deletion; 200 at most")
    grants = ListedGrantAnswer(many=True, help_text="200 at most")
    tenants = serializers.ListField(child=serializers.CharField(), help_text="paths of names, bottom up; 200 at most")
    fingerprint = serializers.CharField(help_text="of what was shown; cascade asks for it")


class TenantDeletingAnswer(Answer):
    operation = OperationAnswer()


class Tenants(Door):
    @route("tenant_list", permission="tenant.read", page_of=TenantAnswer)
    def list(self, call: Call) -> Response:
        """The tenants that the token sees, oldest first."""
        if call.actor.tenant_id is not None:
            authorize(call.actor, "tenant.read", call.actor.tenant_id)
        with tenant_scope(visible_tenant_ids(call.actor, "tenant.read")):
            return page(call.request, selectors.tenants(), lambda row: _show(call, row), newest_first=False)

    @route("tenant_create", permission="tenant.create", body=TenantCreateInput, answer=TenantAnswer, status=201)
    def create(self, call: Call) -> Response:
        """Make a tenant below another one; operators make top tenants too, by naming no parent."""
        body = call.body
        parent = None
        if "parent" in body:
            parent = _or_invalid("/parent", lambda: selectors.get_tenant(body["parent"]))
        elif call.actor.tenant_id is not None:
            parent = selectors.get_tenant(call.actor.tenant_id)
        authorize(call.actor, "tenant.create", parent)
        owner = _or_invalid("/owner", lambda: selectors.get_user(body["owner"])) if "owner" in body else None
        tenant = create_tenant(
            actor=call.actor, name=body["name"], parent=parent, owner=owner, limits=body.get("limits")
        )
        return Response(
            _show(call, tenant),
            status=201,
            headers={"Location": f"/api/v1/tenants/{tenant.id}", "ETag": f'"{tenant.version}"'},
        )

    @route("tenant_show", permission="tenant.read", answer=TenantAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        tenant = _find(call, reference, "tenant.read")
        return tagged(call.request, _show(call, tenant), version=tenant.version)

    @route("tenant_update", permission="tenant.update", body=TenantUpdateInput, answer=TenantAnswer)
    def partial_update(self, call: Call, reference: str) -> Response:
        """Rename it; disable it, with all below, or enable it again (both decided by the tenant above)."""
        tenant = _find(call, reference, "tenant.update")
        expected = call.if_version
        if "name" in call.body:
            tenant = rename_tenant(actor=call.actor, tenant=tenant, name=call.body["name"], expected_version=expected)
            expected = None
        if "state" in call.body:
            active = call.body["state"] == "active"
            tenant = set_tenant_state(actor=call.actor, tenant=tenant, active=active, expected_version=expected)
        return tagged(call.request, _show(call, tenant), version=tenant.version)

    @route(
        "tenant_move", permission="tenant.move", query=TenantMoveQuery, body=TenantMoveInput, answer=TenantMoveAnswer
    )
    def move(self, call: Call, reference: str) -> Response:
        """Put it, with all below, under another tenant: use, paths and inherited roles follow at once. Needs the role at both
        places; what stands at the top is decided by operators. With `?dry_run=true` nothing changes: the answer tells
        which limits lack room and who gains and loses access.
        """
        tenant = _find(call, reference, "tenant.move")
        name = call.body["parent"]
        parent = None if name is None else _or_invalid("/parent", lambda: selectors.get_tenant(name))
        dry_run = call.query.get("dry_run") == "true"
        service = plan_tenant_move if dry_run else move_tenant_with_guests
        move = service(actor=call.actor, tenant=tenant, parent=parent, expected_version=call.if_version)
        return Response(_show_move(call, move, dry_run=dry_run))

    @route(
        "tenant_delete",
        permission="tenant.delete",
        query=TenantDeleteQuery,
        status=204,
        dry_answer=TenantContentsAnswer,
        slow_answer=TenantDeletingAnswer,
    )
    def destroy(self, call: Call, reference: str) -> Response:
        """Only without instances, keypairs and tenants below it; a refusal counts them. Members and tokens go with it.

        With `?cascade=true`, decided by the tenant above, it is closed at once and an operation deletes all it holds, guests
        first, bottom up. It asks for the `fingerprint` of what `?dry_run=true` has shown, and is refused (`conflict`, reason
        `changed`) once something else is there. A cancel stops between guests and opens the tenant again.
        """
        tenant = _find(call, reference, "tenant.delete")
        if call.query.get("dry_run") == "true":
            return Response(call.render(TenantContentsAnswer, plan_tenant_delete(actor=call.actor, tenant=tenant)))
        if call.query.get("cascade") == "true":
            if "fingerprint" not in call.query:
                raise InvalidInput.field("/fingerprint", "required", "Send the fingerprint that a dry run gives you.")
            operation = delete_tenant_with_contents(
                actor=call.actor,
                tenant=tenant,
                fingerprint=call.query["fingerprint"],
                expected_version=call.if_version,
            )
            body = {"operation": show_operation(operation, call.actor)}
            return Response(body, status=202, headers={"Location": operation_url(operation.id)})
        delete_empty_tenant(actor=call.actor, tenant=tenant, expected_version=call.if_version)
        return Response(status=204)


def _find(call: Call, reference: str, permission: str) -> Tenant:
    tenant = selectors.get_tenant(as_reference(reference))
    authorize(call.actor, permission, tenant)
    return tenant


def _or_invalid(pointer: str, find: Any) -> Any:
    try:
        return find()
    except NotFound as error:
        raise InvalidInput.field(pointer, "not_found", error.detail)


def _show_move(call: Call, move: Move, *, dry_run: bool) -> dict[str, Any]:
    parent_id = None if move.parent is None else move.parent.id
    fields = {field.name: getattr(move, field.name) for field in dataclasses.fields(move)}
    return call.render(
        TenantMoveAnswer,
        {**fields, "parent_id": parent_id, "dry_run": dry_run, "shortages": shown_lines(move.shortages)},
    )


def _show(call: Call, tenant: Tenant) -> dict[str, Any]:
    shown = call.render(TenantAnswer, tenant)
    if tenant.id == call.actor.tenant_id:
        shown["parent_id"] = None  # above what the token reaches
    return shown
