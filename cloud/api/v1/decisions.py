"""Decisions: why an instance was placed where it is, or refused, and what would have made it fit."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, Identifier, StrictSerializer, Text, render
from cloud.api.pagination import page
from cloud.api.references import as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import listed_tenant
from compute.models import Decision
from compute.selectors.decisions import (
    Verdict,
    explain_decision,
    find_verdict,
    get_decision,
    list_decisions,
    shortfall,
    shown_quota,
    shown_remedies,
)
from tenants.scope import Scope
from tenants.services.access import Actor, visible_tenant_ids


class RemedyAnswer(Answer):
    sentence = serializers.CharField()
    changes = serializers.ListField(child=serializers.DictField())
    body = serializers.DictField(
        allow_null=True, help_text="what to put into the create's body instead; null: that is not enough"
    )


class QuotaTenantAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class QuotaEffectAnswer(Answer):
    """One resource at one level, from the tenant up to the root. Of a level above that the caller may not see there is
    a line only where it refuses: without tenant, limit and use."""

    tenant = QuotaTenantAnswer(allow_null=True)
    resource = serializers.CharField()
    limit = serializers.IntegerField(allow_null=True)
    used = serializers.IntegerField(allow_null=True, help_text="before")
    asked = serializers.IntegerField()
    after = serializers.IntegerField(allow_null=True)
    missing = serializers.IntegerField(help_text="by how much the limit is too low; 0 where it fits")


class DecidingHostAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class DecisionSummaryAnswer(Answer):
    """Tenants see what concerns their request; which hosts there are, and how full, is for operators."""

    operator_only: tuple[str, ...] = ("host", "policy", "hosts_seen", "tally")

    id = serializers.UUIDField()
    tenant_id = serializers.UUIDField()
    instance_id = serializers.UUIDField(allow_null=True, help_text="null: a refusal, or a batch")
    kind = serializers.CharField()
    outcome = serializers.ChoiceField(["placed", "refused"])
    code = serializers.CharField(help_text="of the problem that a refusal met; empty where it was placed")
    request = serializers.DictField(help_text="what is not there is at its default")
    summary = serializers.ListField(child=serializers.CharField(), help_text="sentences")
    remedies = RemedyAnswer(many=True, help_text="the smallest changes that would make it fit")
    quota = QuotaEffectAnswer(many=True, help_text="of a refusal by quota: the figures that the caller may see")
    host = DecidingHostAnswer(allow_null=True, help_text="of a batch: the first instance's")
    policy = serializers.CharField()
    hosts_seen = serializers.IntegerField()
    tally = serializers.DictField(child=serializers.IntegerField(), help_text="filter -> hosts that it refused")
    created_at = serializers.DateTimeField()


class ChosenAnswer(Answer):
    instance_id = serializers.UUIDField()
    host_id = serializers.UUIDField()


class VerdictAnswer(Answer):
    """What was found of one host, before the request was on it."""

    host_id = serializers.UUIDField()
    host_name = serializers.CharField()
    place = serializers.IntegerField(allow_null=True, help_text="among the candidates, 1 is the best")
    filter = serializers.CharField(allow_null=True, help_text="the first that refused")
    also = serializers.ListField(child=serializers.CharField(), help_text="the others that would")
    score = serializers.FloatField(allow_null=True)
    contributions = serializers.DictField(child=serializers.FloatField(), help_text="weigher -> weight x value")
    free = serializers.DictField(child=serializers.IntegerField(), help_text="empty: not among those kept")
    margins = serializers.DictField(child=serializers.IntegerField(), help_text="free - asked")
    asked = serializers.IntegerField(allow_null=True, help_text="of the resource that the first filter judges")
    margin = serializers.IntegerField(allow_null=True)
    unit = serializers.CharField(allow_null=True)


class DecisionAnswer(DecisionSummaryAnswer):
    operator_only = (
        *DecisionSummaryAnswer.operator_only,
        *("weights", "choice", "tie", "passed_over", "plan", "candidates", "refusals"),
    )

    weights = serializers.DictField(child=serializers.FloatField(), help_text="weigher -> weight, as they were")
    choice = serializers.CharField(help_text="what put the best host before the next")
    tie = serializers.BooleanField(help_text="the two best have one score: the lower id went first")
    passed_over = serializers.IntegerField(help_text="better hosts that filled up before the claim")
    plan = ChosenAnswer(many=True, help_text="of a batch")
    candidates = VerdictAnswer(many=True, help_text="the best twenty")
    refusals = VerdictAnswer(many=True, help_text="the twenty that lack least")


class DecisionListQuery(StrictSerializer):
    tenant = Text(required=False)
    instance = Identifier(required=False, help_text="id")
    outcome = Choice(["placed", "refused"], required=False)


class VerdictQuery(StrictSerializer):
    host = Text(required=False, help_text="id or name: this one alone")


class VerdictsAnswer(Answer):
    items = VerdictAnswer(many=True)


def show_decision(decision: Decision, actor: Actor) -> dict[str, Any]:
    """A decision in full, as the actor may see it."""
    row = _summary(decision, actor, visible_tenant_ids(actor))
    if actor.is_operator:
        found = explain_decision(actor=actor, decision=decision)
        asked = decision.request
        row |= {
            "weights": decision.weights,
            "choice": found.choice,
            "tie": found.tie,
            "passed_over": decision.passed_over,
            "plan": [{"instance_id": instance, "host_id": host} for instance, host in decision.plan],
            "candidates": [_verdict(verdict, asked) for verdict in found.best],
            "refusals": [_verdict(verdict, asked) for verdict in found.closest],
        }
    return render(DecisionAnswer, row, is_operator=actor.is_operator)


def _summary(decision: Decision, actor: Actor, visible: Scope) -> dict[str, Any]:
    request = decision.request
    if not actor.is_operator:
        request = {key: request[key] for key in ("name", "count", "kind", "resources") if key in request}
    names = ("id", "tenant_id", "instance_id", "kind", "outcome", "code", "summary", "host", "policy", "hosts_seen")
    return {
        **{name: getattr(decision, name) for name in (*names, "tally", "created_at")},
        "request": request,
        "remedies": shown_remedies(decision=decision, visible=visible),
        "quota": shown_quota(decision=decision, visible=visible),
    }


def _verdict(verdict: Verdict, asked: dict[str, Any]) -> dict[str, Any]:
    lacks = {"asked": None, "margin": None, "unit": None, **shortfall(verdict, asked)}
    return {
        "host_id": verdict.host_id,
        "host_name": verdict.host_name,
        "place": verdict.place,
        "filter": verdict.failing[0] if verdict.failing else None,
        "also": list(verdict.failing[1:]),
        "score": verdict.score,
        "contributions": dict(verdict.points),
        "free": dict(verdict.free),
        "margins": dict(verdict.margin),
        **{key: lacks[key] for key in ("asked", "margin", "unit")},
    }


class Decisions(Door):
    @route("decision_list", permission="decision.read", query=DecisionListQuery, page_of=DecisionSummaryAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        tenant_id = listed_tenant(call, "decision.read")
        rows = list_decisions(
            actor=call.actor, instance_id=call.query.get("instance"), outcome=call.query.get("outcome")
        )
        if tenant_id is not None:
            rows = rows.filter(tenant_id=tenant_id)
        visible = visible_tenant_ids(call.actor)
        return page(
            call.request, rows, lambda row: call.render(DecisionSummaryAnswer, _summary(row, call.actor, visible))
        )

    @route(
        "decision_show",
        permission="decision.read",
        answer=DecisionAnswer,
        paths={"decision_id": "the decision's id"},
    )
    def retrieve(self, call: Call, decision_id: str) -> Response:
        decision = get_decision(actor=call.actor, decision_id=as_uuid(decision_id))
        return Response(show_decision(decision, call.actor))

    @route(
        "decision_hosts",
        permission="host.read",
        query=VerdictQuery,
        answer=VerdictsAnswer,
        paths={"decision_id": "the decision's id"},
    )
    def hosts(self, call: Call, decision_id: str) -> Response:
        """What was found of every host that was looked at, in the order of their ids. For operators."""
        decision = get_decision(actor=call.actor, decision_id=as_uuid(decision_id))
        verdicts = explain_decision(actor=call.actor, decision=decision).verdicts
        if "host" in call.query:
            verdicts = (find_verdict(verdicts, call.query["host"]),)
        asked = decision.request
        return Response(call.render(VerdictsAnswer, {"items": [_verdict(verdict, asked) for verdict in verdicts]}))
