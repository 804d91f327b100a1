"""What a dry run of a resize answers: from which size to which, for what price, and what would refuse it."""

from __future__ import annotations

from rest_framework import serializers

from cloud.api.fields import Answer
from cloud.api.v1.decisions import QuotaEffectAnswer


class ResizeSizeAnswer(Answer):
    flavor = serializers.CharField(help_text="name")
    vcpus = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_gib = serializers.IntegerField()
    per_hour = serializers.DecimalField(
        max_digits=24, decimal_places=6, allow_null=True, help_text="null: the price book is empty"
    )


class ResizePlanAnswer(Answer):
    fits = serializers.BooleanField()
    before = ResizeSizeAnswer()
    after = ResizeSizeAnswer()
    currency = serializers.CharField(allow_null=True)
    refused_by = serializers.ListField(child=serializers.CharField(), help_text="codes of the problems it would meet")
    reasons = serializers.ListField(child=serializers.CharField(), help_text="the same as sentences")
    quota = QuotaEffectAnswer(many=True, help_text="what grows, at every level that the caller sees")
