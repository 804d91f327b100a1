"""Decisions: why an instance was placed where it is, or refused, and what would have made it fit."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, Identifier, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.references import as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import listed_tenant
from compute.models import Decision
from compute.selectors.catalog import get_decision, list_decisions


class RemedyAnswer(Answer):
    sentence = serializers.CharField()
    changes = serializers.ListField(child=serializers.DictField())
    body = serializers.DictField(
        allow_null=True, help_text="what to put into the create's body instead; null: that is not enough"
    )


class DecidingHostAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class DecisionAnswer(Answer):
    """Tenants see what concerns their request; which hosts there are, and how full, is for operators."""

    operator_only = ("host", "policy", "hosts_seen", "tally", "candidates", "refusals")

    id = serializers.UUIDField()
    tenant_id = serializers.UUIDField()
    instance_id = serializers.UUIDField(allow_null=True)
    kind = serializers.CharField()
    outcome = serializers.ChoiceField(["placed", "refused"])
    request = serializers.SerializerMethodField()
    summary = serializers.ListField(child=serializers.CharField(), help_text="sentences")
    remedies = RemedyAnswer(many=True, help_text="the smallest changes that would make it fit")
    host = DecidingHostAnswer(allow_null=True)
    policy = serializers.CharField()
    hosts_seen = serializers.IntegerField()
    tally = serializers.DictField(child=serializers.IntegerField(), help_text="filter -> hosts that it refused")
    candidates = serializers.ListField(child=serializers.DictField(), help_text="the best twenty, with their scores")
    refusals = serializers.ListField(child=serializers.DictField(), help_text="the first twenty, with the numbers")
    created_at = serializers.DateTimeField()

    def get_request(self, decision: Decision) -> dict[str, Any]:
        if self.context.get("is_operator"):
            return dict(decision.request)
        return {key: decision.request[key] for key in ("name", "kind", "resources") if key in decision.request}


class DecisionListQuery(StrictSerializer):
    tenant = Text(required=False)
    instance = Identifier(required=False, help_text="id")
    outcome = Choice(["placed", "refused"], required=False)


class Decisions(Door):
    @route("decision_list", permission="decision.read", query=DecisionListQuery, page_of=DecisionAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        tenant_id = listed_tenant(call, "decision.read")
        rows = list_decisions(
            actor=call.actor, instance_id=call.query.get("instance"), outcome=call.query.get("outcome")
        )
        if tenant_id is not None:
            rows = rows.filter(tenant_id=tenant_id)
        return page(call.request, rows, lambda row: call.render(DecisionAnswer, row))

    @route(
        "decision_show",
        permission="decision.read",
        answer=DecisionAnswer,
        paths={"decision_id": "the decision's id"},
    )
    def retrieve(self, call: Call, decision_id: str) -> Response:
        decision = get_decision(actor=call.actor, decision_id=as_uuid(decision_id))
        return Response(call.render(DecisionAnswer, decision))
