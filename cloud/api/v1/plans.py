"""Plans: moves of several guests, shown as a whole before the first begins; for the cloud's operators."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, Flag, StrictSerializer, Text, Whole
from cloud.api.pagination import page
from cloud.api.references import as_reference, as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.v1.instances import InstanceAnswer, NamedAnswer, show_instance
from compute import states
from compute.models import Plan
from compute.selectors.instances import get_instance
from compute.selectors.lookup import find_host
from compute.selectors.plans import get_plan, list_plans
from compute.services.contracts import DISRUPTIONS, LONGEST_PAUSE_MS, set_contract
from compute.services.drain_draft import DrainOptions
from compute.services.plans import abort_plan, apply_plan, pause_plan, propose_drain, resume_plan
from tenants.services.access import authorize


class RefusalAnswer(Answer):
    code = serializers.CharField()
    detail = serializers.CharField()


class SurvivalAnswer(Answer):
    losses = serializers.IntegerField(help_text="hosts lost at once that the pool is to outlive")
    before = serializers.IntegerField(help_text="sets of so many hosts that could not be lost: some guest has no place")
    after = serializers.ListField(child=serializers.IntegerField(), help_text="the same after each step, or at the end")


class PlanStepAnswer(Answer):
    number = serializers.IntegerField()
    instance = NamedAnswer()
    tenant = NamedAnswer(source="instance.tenant")
    source = NamedAnswer()  # type: ignore[assignment]  # the field's name is what hosts and docs call it
    destination = NamedAnswer(allow_null=True)
    way = serializers.ChoiceField(["live", "cold", "none"], help_text="none: it cannot go as it stands")
    state = serializers.ChoiceField(sorted(states.PLAN_STEP))
    after = serializers.ListField(child=serializers.IntegerField(), help_text="steps that have to have ended before")
    reason = serializers.CharField(help_text="why the plan has it")
    code = serializers.CharField(help_text="why it cannot go, or failed last")
    message = serializers.CharField()
    migration_id = serializers.UUIDField(allow_null=True)
    tries = serializers.IntegerField()


class PlanSummaryAnswer(Answer):
    id = serializers.UUIDField()
    kind = serializers.ChoiceField(["drain", "rebalance"])
    pool = NamedAnswer()
    host = NamedAnswer(allow_null=True)
    state = serializers.ChoiceField(sorted(states.PLAN))
    reason = serializers.CharField(help_text="why it is paused, or what keeps it from its end")
    moves = serializers.IntegerField()
    done = serializers.IntegerField()
    in_the_way = serializers.IntegerField(help_text="guests that cannot go, or could not")
    actor = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(help_text="until when it can be applied")
    applied_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)


class PlanAnswer(PlanSummaryAnswer):
    options = serializers.JSONField()
    fingerprint = serializers.CharField(help_text="of what it rests on")
    refusals = RefusalAnswer(many=True, help_text="for which it cannot be applied as it is")
    survival = SurvivalAnswer(allow_null=True)
    steps = PlanStepAnswer(many=True, source="steps.all")


class PlanListQuery(StrictSerializer):
    host = Text(required=False, help_text="id or name of the host to be emptied")
    state = Choice(sorted(states.PLAN), required=False)
    open = serializers.BooleanField(required=False, help_text="true: only those that are being carried out")


class DrainQuery(StrictSerializer):
    dry_run = Choice(["true", "false"], required=False, help_text="true: draw the plan up, begin nothing")


class DrainInput(StrictSerializer):
    stop = Flag(required=False, help_text="agree to restarts of what cannot go while it runs")
    consent = serializers.ListField(
        child=Text(), required=False, max_length=500, help_text="instances whose tenants were asked, by id or name"
    )
    accept_losses = Flag(required=False, help_text="though fewer losses of hosts could be outlived meanwhile and after")
    reason = Text(required=False, allow_blank=True, max_length=255)


class PauseInput(StrictSerializer):
    reason = Text(required=False, allow_blank=True, max_length=255)


class ContractInput(StrictSerializer):
    disruption = Choice(
        DISRUPTIONS, help_text="live: moved while it runs; restart: also by a restart; consent: not without being asked"
    )
    pause_limit_ms = Whole(
        required=False, allow_null=True, min_value=1, max_value=LONGEST_PAUSE_MS, help_text="of a live migration"
    )


class Plans(Door):
    @route("plan_list", permission="migration.read", query=PlanListQuery, page_of=PlanSummaryAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        query = call.query
        authorize(call.actor, "migration.read", None)
        rows = list_plans(
            actor=call.actor,
            host=find_host(query["host"]) if "host" in query else None,
            state=query.get("state"),
            open_only=query.get("open", False),
        )
        return page(call.request, rows, lambda row: call.render(PlanSummaryAnswer, row))

    @route("plan_show", permission="migration.read", answer=PlanAnswer, paths={"plan_id": "the plan's id"})
    def retrieve(self, call: Call, plan_id: str) -> Response:
        """One plan with all its steps, and how far they are."""
        return self._answer(call, plan_id)

    @route(
        "host_drain",
        permission="host.drain",
        query=DrainQuery,
        body=DrainInput,
        answer=PlanAnswer,
        dry_answer=PlanAnswer,
        status=202,
    )
    def drain(self, call: Call, reference: str) -> Response:
        """Empty a host: draw up what becomes of each of its guests, and carry it out.

        With `?dry_run=true` nothing begins: the answer, 200, is the plan, which can be applied within 15 minutes
        (`/plans/{id}/actions/apply`). Nobody is stopped but by `stop`, or by an instance's own contract.
        """
        authorize(call.actor, "host.drain", None)
        body = call.body
        named = [get_instance(actor=call.actor, reference=as_reference(name)) for name in body.get("consent", ())]
        options = DrainOptions(
            stop=body.get("stop", False),
            consent=tuple(sorted(str(instance.id) for instance in named)),
            accept_losses=body.get("accept_losses", False),
        )
        host = find_host(as_reference(reference))
        plan = propose_drain(actor=call.actor, host_id=host.id, options=options, reason=body.get("reason", ""))
        if call.query.get("dry_run") == "true":
            return self._answer(call, str(plan.id))
        apply_plan(actor=call.actor, plan_id=plan.id)
        return self._answer(call, str(plan.id), status=202)

    @route("plan_apply", permission="host.drain", answer=PlanAnswer, status=202, paths={"plan_id": "the plan's id"})
    def apply(self, call: Call, plan_id: str) -> Response:
        """Begin to carry it out, if the world is still as it says; else 409 with the difference."""
        apply_plan(actor=call.actor, plan_id=as_uuid(plan_id))
        return self._answer(call, plan_id, status=202)

    @route(
        "plan_pause", permission="host.drain", body=PauseInput, answer=PlanAnswer, paths={"plan_id": "the plan's id"}
    )
    def pause(self, call: Call, plan_id: str) -> Response:
        """Begin no further step; moves under way go on."""
        pause_plan(actor=call.actor, plan_id=as_uuid(plan_id), reason=call.body.get("reason", ""))
        return self._answer(call, plan_id)

    @route("plan_resume", permission="host.drain", answer=PlanAnswer, status=202, paths={"plan_id": "the plan's id"})
    def resume(self, call: Call, plan_id: str) -> Response:
        """Go on with a plan that is paused, or has stopped; what was in the way is looked at anew."""
        resume_plan(actor=call.actor, plan_id=as_uuid(plan_id))
        return self._answer(call, plan_id, status=202)

    @route("plan_abort", permission="host.drain", answer=PlanAnswer, paths={"plan_id": "the plan's id"})
    def abort(self, call: Call, plan_id: str) -> Response:
        """End it: moves under way are cancelled where they still can be, what has moved stays where it is now."""
        abort_plan(actor=call.actor, plan_id=as_uuid(plan_id))
        return self._answer(call, plan_id)

    @route("instance_contract", permission="instance.update", body=ContractInput, answer=InstanceAnswer)
    def contract(self, call: Call, reference: str) -> Response:
        """Say how the cloud may move it when its host has to be emptied or relieved."""
        instance = get_instance(actor=call.actor, reference=as_reference(reference))
        set_contract(
            actor=call.actor,
            instance_id=instance.id,
            disruption=call.body["disruption"],
            pause_limit_ms=call.body.get("pause_limit_ms"),
            if_version=call.if_version,
        )
        return Response(show_instance(get_instance(actor=call.actor, reference=str(instance.id)), call.actor))

    def _answer(self, call: Call, plan_id: str, status: int = 200) -> Response:
        plan: Plan = get_plan(actor=call.actor, plan_id=as_uuid(plan_id))
        shown: dict[str, Any] = call.render(PlanAnswer, plan)
        return Response(shown, status=status)
