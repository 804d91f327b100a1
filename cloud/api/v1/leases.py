"""Leases in bodies and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from cloud.api.fields import Answer, Choice, Moment, StrictSerializer, Whole
from compute.services.lease_terms import ACTIONS, LeaseAsk


class LeaseInput(StrictSerializer):
    """`seconds` from now, or until `ends_at`: one of the two; a minute at least, ten years at most."""

    seconds = Whole(required=False)
    ends_at = Moment(required=False)
    action = Choice(
        ACTIONS,
        required=False,
        help_text="what happens then; left out: as the present lease, or stop where there is none",
    )


class LeaseChangeInput(StrictSerializer):
    lease = LeaseInput(allow_null=True, help_text="null: it may stay for ever")


class LeaseAnswer(Answer):
    """Of an instance's own columns; null where it has none."""

    ends_at = serializers.DateTimeField(source="lease_ends_at")
    action = serializers.ChoiceField(ACTIONS, source="lease_action", help_text="what happens then")

    def get_attribute(self, instance: Any) -> Any:
        """Return what is shown: of an instance without a lease nothing."""
        return None if instance.lease_ends_at is None else instance


def read_lease(body: Mapping[str, Any] | None) -> LeaseAsk | None:
    """Return the lease of a body that `LeaseInput` has taken."""
    return None if body is None else LeaseAsk(**body)
