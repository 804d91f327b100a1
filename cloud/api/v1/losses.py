"""Host loss: fence, evacuation and return; and who would come back where. For the cloud's operators."""

from __future__ import annotations

from typing import Any, Final

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, StrictSerializer, Text, Whole
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from cloud.api.v1.hosts import HostAnswer
from cloud.api.v1.instances import InstanceAnswer, NamedAnswer, show_instance
from compute import states
from compute.models import Host
from compute.selectors.instances import get_instance
from compute.selectors.lookup import find_host, find_pool
from compute.selectors.losses import LossState, loss_state
from compute.services.evacuations import evacuate_host, prioritize_instance
from compute.services.fences import fence_host, return_host
from compute.services.loss_forecast import PoolLosses, foresee_loss, foresee_losses
from compute.services.lost_guests import Fate
from tenants.services.access import authorize

OBSTACLES: Final = ("no_valid_host", "operation_open", "storage_not_shared", "unsettled")


class FenceAnswer(Answer):
    id = serializers.UUIDField()
    driver = serializers.ChoiceField(["operator", "command", "redfish"])
    state = serializers.ChoiceField(sorted(states.FENCE))
    reason = serializers.CharField()
    actor = serializers.CharField(help_text="who asked for it")
    tries = serializers.IntegerField()
    evidence = serializers.CharField(help_text="what was seen, or what an operator said")
    error = serializers.CharField(help_text="why the last try proved nothing")
    asked_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class BlockedAnswer(Answer):
    instance = serializers.UUIDField()
    name = serializers.CharField()
    code = serializers.ChoiceField(OBSTACLES)
    message = serializers.CharField()


class EvacuationAnswer(Answer):
    id = serializers.UUIDField()
    state = serializers.ChoiceField(sorted(states.EVACUATION))
    reason = serializers.CharField(help_text="why it was stopped")
    actor = serializers.CharField(help_text="who asked for it")
    moved = serializers.IntegerField(help_text="guests whose books say another host now")
    blocked = BlockedAnswer(many=True, help_text="guests that could not go at the last look; they are tried again")
    asked_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class FateAnswer(Answer):
    instance = NamedAnswer()
    tenant = NamedAnswer(source="instance.tenant")
    priority = serializers.IntegerField(source="instance.evacuation_priority")
    host = serializers.CharField(source="host_name", help_text="where it would come back; empty: it would not")
    code = serializers.ChoiceField(["", *OBSTACLES], help_text="why it would not")
    message = serializers.CharField()


class LossAnswer(Answer):
    host = NamedAnswer()
    fence = FenceAnswer(allow_null=True, help_text="the newest")
    evacuation = EvacuationAnswer(allow_null=True, help_text="the newest")
    debts = serializers.IntegerField(help_text="stale guests to be destroyed before anything else when it returns")
    guests = FateAnswer(many=True, help_text="in the order in which they come back were it lost now")


class HostLossAnswer(Answer):
    host = NamedAnswer()
    guests = serializers.IntegerField()
    looked_at = serializers.BooleanField(help_text="false: nobody has gone through its guests; ask for its own loss")
    staying = FateAnswer(many=True, help_text="who would not come back")


class PoolLossesAnswer(Answer):
    pool = NamedAnswer()
    hosts = serializers.IntegerField()
    guests = serializers.IntegerField()
    staying = serializers.IntegerField(help_text="guests that would not come back were their host lost now")
    worst = HostLossAnswer(many=True, help_text="hosts that would keep guests, or that were not gone through")


class FenceInput(StrictSerializer):
    statement = Text(
        required=False, max_length=500, help_text="your word that it is off, and how you know; left out: the driver's"
    )
    reason = Text(required=False, allow_blank=True)


class EvacuateQuery(StrictSerializer):
    dry_run = Choice(["true", "false"], required=False, help_text="true: say who would come back where, move nobody")


class PriorityInput(StrictSerializer):
    priority = Whole(max_value=100, help_text="higher ones come back first; 50 unless told")


class Losses(Door):
    @route("host_loss", permission="host.read", answer=LossAnswer)
    def show(self, call: Call, reference: str) -> Response:
        """Where each of its guests would come back were it lost now, and why the others would not."""
        return Response(self._foreseen(call, reference))

    @route("pool_losses", permission="host.read", answer=PoolLossesAnswer)
    def of_pool(self, call: Call, reference: str) -> Response:
        """For each host of the pool, which guests would not come back were it lost now, and why. All others would."""
        authorize(call.actor, "host.read", None)
        found: PoolLosses = foresee_losses(actor=call.actor, pool=find_pool(as_reference(reference)))
        return Response(call.render(PoolLossesAnswer, found))

    @route("host_fence", permission="host.fence", body=FenceInput, answer=FenceAnswer, status=202)
    def fence(self, call: Call, reference: str) -> Response:
        """Have a host that is down switched off for sure, or say that it is off: its guests may run elsewhere then."""
        host = self._find(call, reference)
        fence = fence_host(
            actor=call.actor,
            host_id=host.id,
            statement=call.body.get("statement", ""),
            reason=call.body.get("reason", ""),
        )
        return Response(call.render(FenceAnswer, fence), status=202)

    @route(
        "host_evacuate",
        permission="host.fence",
        query=EvacuateQuery,
        answer=EvacuationAnswer,
        dry_answer=LossAnswer,
        status=202,
    )
    def evacuate(self, call: Call, reference: str) -> Response:
        """Start the guests of a fenced host on others, by priority.

        With `?dry_run=true` nobody moves: the answer, 200, says who would come back where.
        """
        host = self._find(call, reference)
        if call.query.get("dry_run") == "true":
            return Response(self._foreseen(call, reference))
        evacuation = evacuate_host(actor=call.actor, host_id=host.id)
        return Response(call.render(EvacuationAnswer, evacuation), status=202)

    @route("host_return", permission="host.fence", answer=HostAnswer)
    def give_back(self, call: Call, reference: str) -> Response:
        """Take a fenced host back that is heard again. It serves when its stale guests are destroyed."""
        host = self._find(call, reference)
        return Response(call.render(HostAnswer, return_host(actor=call.actor, host_id=host.id)))

    @route("instance_prioritize", permission="instance.prioritize", body=PriorityInput, answer=InstanceAnswer)
    def prioritize(self, call: Call, reference: str) -> Response:
        """Say when it comes back should its host be lost."""
        authorize(call.actor, "instance.prioritize", None)
        instance = get_instance(actor=call.actor, reference=as_reference(reference))
        prioritize_instance(
            actor=call.actor, instance_id=instance.id, priority=call.body["priority"], if_version=call.if_version
        )
        return Response(show_instance(get_instance(actor=call.actor, reference=str(instance.id)), call.actor))

    def _find(self, call: Call, reference: str) -> Host:
        authorize(call.actor, "host.fence", None)
        return find_host(as_reference(reference))

    def _foreseen(self, call: Call, reference: str) -> dict[str, Any]:
        host, fates = foresee_loss(actor=call.actor, reference=as_reference(reference))
        return call.render(LossAnswer, _loss(host, loss_state(host=host), fates))


def _loss(host: Host, state: LossState, fates: list[Fate]) -> dict[str, Any]:
    return {
        "host": host,
        "fence": state.fence,
        "evacuation": state.evacuation,
        "debts": state.debts,
        "guests": fates,
    }
