"""Migrations: guests on their way from one host to another; for the cloud's operators."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, Identifier, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.references import as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.v1.operations import ErrorAnswer
from compute import states
from compute.models import Migration
from compute.selectors.migrations import get_migration, list_migrations
from compute.selectors.pools import get_host


class EndAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class MigrationJobAnswer(Answer):
    """What the source was asked for: pauses of the guest in milliseconds, bandwidth 0 for as fast as the link is."""

    bandwidth_mib_s = serializers.IntegerField()
    downtime_ms = serializers.IntegerField()
    downtime_limit_ms = serializers.IntegerField()
    auto_converge = serializers.BooleanField()
    at_the_end = serializers.CharField(help_text="give_up, pause: where the guest writes faster than the link carries")
    deadline_seconds = serializers.FloatField()

    def get_attribute(self, instance: Migration) -> Any:
        return super().get_attribute(instance) or None  # of a cold one it is empty


class MigrationStatusAnswer(Answer):
    """How far the copy is, or how it ended, as the source's hypervisor counts."""

    elapsed_seconds = serializers.FloatField()
    total_bytes = serializers.IntegerField()
    done_bytes = serializers.IntegerField()
    remaining_bytes = serializers.IntegerField()
    bytes_per_second = serializers.FloatField()
    dirty_bytes_per_second = serializers.FloatField(help_text="what the guest itself writes")
    iterations = serializers.IntegerField()
    downtime_ms = serializers.FloatField(help_text="allowed now; at the end, as it was")
    throttle_percent = serializers.IntegerField()
    rung = serializers.CharField(help_text="copy, converge, downtime, pause: how far up the ladder")
    eta_seconds = serializers.FloatField(allow_null=True, help_text="null: it writes faster than the link carries")


class MigrationAnswer(Answer):
    id = serializers.UUIDField()
    instance = EndAnswer()
    source = EndAnswer()  # type: ignore[assignment]  # the field's name is what hosts and docs call it
    destination = EndAnswer()
    state = serializers.ChoiceField(sorted(states.MIGRATION))
    operation_id = serializers.UUIDField()
    decision_id = serializers.UUIDField(allow_null=True, help_text="why it goes where it goes")
    way = serializers.ChoiceField(["live", "cold"], help_text="cold: the instance did not run meanwhile")
    job = MigrationJobAnswer(allow_null=True, help_text="null for a cold one")
    status = MigrationStatusAnswer(allow_null=True, help_text="null until the source has counted")
    error = ErrorAnswer(allow_null=True)
    reason = serializers.CharField()
    actor = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class MigrationListQuery(StrictSerializer):
    instance = Identifier(required=False, help_text="id of the instance")
    host = Text(required=False, help_text="id or name of either end")
    state = Choice(sorted(states.MIGRATION), required=False)
    open = serializers.BooleanField(required=False, help_text="true: only those that have not ended")


class Migrations(Door):
    @route("migration_list", permission="migration.read", query=MigrationListQuery, page_of=MigrationAnswer)
    def list(self, call: Call) -> Response:
        """Newest first."""
        query = call.query
        rows = list_migrations(
            actor=call.actor,
            instance_id=query.get("instance"),
            host=get_host(actor=call.actor, reference=query["host"]) if "host" in query else None,
            state=query.get("state"),
            open_only=query.get("open", False),
        )
        return page(call.request, rows, lambda row: call.render(MigrationAnswer, row))

    @route(
        "migration_show",
        permission="migration.read",
        answer=MigrationAnswer,
        paths={"migration_id": "the migration's id"},
    )
    def retrieve(self, call: Call, migration_id: str) -> Response:
        """One migration, with how far it is. To end it, cancel its operation."""
        row = get_migration(actor=call.actor, migration_id=as_uuid(migration_id))
        return Response(call.render(MigrationAnswer, row))
