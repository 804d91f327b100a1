"""Operations: the handle of everything slow. `?wait=SECONDS` answers when the operation has ended, or the time is up."""

from __future__ import annotations

import uuid
from typing import Any, Final

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.etags import tagged
from cloud.api.fields import Answer, Choice, Identifier, StrictSerializer, Text, render
from cloud.api.pagination import page
from cloud.api.references import as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import listed_tenant
from cloud.api.waiting import wait_until
from compute import states
from compute.models import Operation
from compute.selectors.operations import get_operation, list_operations, progress_of
from compute.services.operations import cancel_operation, retry_operation
from tenants.services.access import Actor

_LONGEST_WAIT: Final = 60
_ENDED: Final = states.OPERATION_FINAL | {"stuck"}


class TargetAnswer(Answer):
    type = serializers.CharField(source="target_type")
    id = serializers.UUIDField(source="target_id")
    name = serializers.CharField(source="target_name")


class StepAnswer(Answer):
    name = serializers.CharField()
    state = serializers.ChoiceField(["pending", "running", "done", "undone", "failed"])
    note = serializers.CharField(allow_null=True, help_text="how far a long step is")
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def to_representation(self, instance: Any) -> Any:
        # Steps are stored as JSON: their times are RFC 3339 text already.
        return {name: instance.get(name) for name in ("name", "state", "note", "started_at", "finished_at")}


class ErrorAnswer(Answer):
    operator_only = ("detail",)
    code = serializers.CharField()
    message = serializers.CharField()
    detail = serializers.CharField(help_text="for operators")

    def to_representation(self, instance: Any) -> Any:
        names = ("code", "message", "detail") if self.context.get("is_operator") else ("code", "message")
        return {name: str(instance.get(name) or "") for name in names}


class OperationAnswer(Answer):
    id = serializers.UUIDField()
    kind = serializers.CharField()
    target = TargetAnswer(source="*")
    tenant_id = serializers.UUIDField(allow_null=True)
    state = serializers.ChoiceField(sorted(states.OPERATION))
    progress = serializers.SerializerMethodField(help_text="0 to 100")
    steps = StepAnswer(many=True)
    error = ErrorAnswer(allow_null=True)
    cancel_requested = serializers.BooleanField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_progress(self, operation: Operation) -> int:
        return progress_of(operation)


def show_operation(operation: Operation, actor: Actor) -> dict[str, Any]:
    """An operation as the actor may see it."""
    return render(OperationAnswer, operation, is_operator=actor.is_operator)


def operation_url(operation_id: uuid.UUID) -> str:
    return f"/api/v1/operations/{operation_id}"


class OperationListQuery(StrictSerializer):
    tenant = Text(required=False)
    state = Choice(sorted(states.OPERATION), required=False)
    kind = Text(required=False, max_length=32)
    target = Identifier(required=False, help_text="id of the instance or host")
    open = serializers.BooleanField(required=False, help_text="true: only those that have not ended")


class OperationQuery(StrictSerializer):
    wait = serializers.IntegerField(required=False, min_value=0, max_value=_LONGEST_WAIT, help_text="seconds")


class Operations(Door):
    @route("operation_list", permission="operation.read", query=OperationListQuery, page_of=OperationAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        query = call.query
        rows = list_operations(
            actor=call.actor,
            tenant_id=listed_tenant(call, "operation.read"),
            state=query.get("state"),
            kind=query.get("kind"),
            target_id=query.get("target"),
            open_only=query.get("open", False),
        )
        return page(call.request, rows, lambda row: show_operation(row, call.actor))

    @route(
        "operation_show",
        permission="operation.read",
        query=OperationQuery,
        answer=OperationAnswer,
        paths={"operation_id": "the operation's id"},
    )
    def retrieve(self, call: Call, operation_id: str) -> Response:
        """One operation; with `?wait=30` when it has ended, or after 30 seconds."""
        operation = _wait(call.actor, as_uuid(operation_id), call.query.get("wait", 0))
        return tagged(call.request, show_operation(operation, call.actor), version=operation.version, computed=True)

    @route(
        "operation_cancel",
        permission="operation.cancel",
        answer=OperationAnswer,
        status=202,
        paths={"operation_id": "the operation's id"},
    )
    def cancel(self, call: Call, operation_id: str) -> Response:
        """Ask it to stop: it undoes what was done at its next step."""
        return self._accepted(call, cancel_operation(actor=call.actor, operation_id=as_uuid(operation_id)))

    @route(
        "operation_retry",
        permission="operation.retry",
        answer=OperationAnswer,
        status=202,
        paths={"operation_id": "the operation's id"},
    )
    def retry(self, call: Call, operation_id: str) -> Response:
        """Have a stuck operation try again."""
        return self._accepted(call, retry_operation(actor=call.actor, operation_id=as_uuid(operation_id)))

    def _accepted(self, call: Call, operation: Operation) -> Response:
        return Response(
            show_operation(operation, call.actor), status=202, headers={"Location": operation_url(operation.id)}
        )


def _wait(actor: Actor, operation_id: uuid.UUID, seconds: int) -> Operation:
    operation = get_operation(actor=actor, operation_id=operation_id)
    if not seconds or operation.state in _ENDED:
        return operation
    wait_until(Operation.objects.filter(id=operation_id, state__in=_ENDED).exists, seconds=seconds)
    # Read anew through the selector: the caller's rights may have ended while it waited.
    return get_operation(actor=actor, operation_id=operation_id)
