"""Public SSH keys of a tenant."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged
from cloud.api.fields import Answer, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.references import as_reference, as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant, listed_tenant
from compute.models import Keypair
from compute.selectors.catalog import list_keypairs
from compute.services.keypairs import create_keypair, delete_keypair
from tenants.errors import AmbiguousName, NotFound


class KeypairAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    tenant_id = serializers.UUIDField()
    public_key = serializers.CharField()
    fingerprint = serializers.CharField()
    created_at = serializers.DateTimeField()
    version = serializers.IntegerField()


class KeypairCreateInput(StrictSerializer):
    name = Text(max_length=63)
    public_key = Text(max_length=8192, multiline=True, help_text="one line, as in id_ed25519.pub")
    tenant = Text(required=False, help_text="id or name; the token's own unless told")


class KeypairListQuery(StrictSerializer):
    tenant = Text(required=False)


class Keypairs(Door):
    @route("keypair_list", permission="keypair.read", query=KeypairListQuery, page_of=KeypairAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        rows = list_keypairs(actor=call.actor, tenant_id=listed_tenant(call, "keypair.read"))
        return page(call.request, rows, lambda row: call.render(KeypairAnswer, row))

    @route("keypair_create", permission="keypair.create", body=KeypairCreateInput, answer=KeypairAnswer, status=201)
    def create(self, call: Call) -> Response:
        tenant = acting_tenant(call, "keypair.create")
        keypair = create_keypair(
            actor=call.actor, tenant=tenant, name=call.body["name"], public_key=call.body["public_key"]
        )
        return Response(
            call.render(KeypairAnswer, keypair), status=201, headers={"Location": f"/api/v1/keypairs/{keypair.id}"}
        )

    @route("keypair_show", permission="keypair.read", query=KeypairListQuery, answer=KeypairAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        keypair = _find(call, reference, "keypair.read")
        return tagged(call.request, call.render(KeypairAnswer, keypair), version=keypair.version)

    @route("keypair_delete", permission="keypair.delete", query=KeypairListQuery, status=204)
    def destroy(self, call: Call, reference: str) -> Response:
        """Instances that were made with it keep it."""
        delete_keypair(actor=call.actor, keypair_id=_find(call, reference, "keypair.read").id)
        return Response(status=204)


def _find(call: Call, reference: str, permission: str) -> Keypair:
    rows = list_keypairs(actor=call.actor, tenant_id=listed_tenant(call, permission))
    text = as_reference(reference)
    try:
        found = list(rows.filter(id=as_uuid(text))[:2])
    except NotFound:
        found = list(rows.filter(name=text)[:2])
    if not found:
        raise NotFound
    if len(found) > 1:
        raise AmbiguousName(f"More than one keypair is named {text!r}: use the id.", name=text)
    return found[0]
