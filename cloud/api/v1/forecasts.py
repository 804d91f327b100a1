"""What a dry run answers: whether a create would be taken, what it would take, what would have to change."""

from __future__ import annotations

from rest_framework import serializers

from cloud.api.fields import Answer
from cloud.api.v1.decisions import QuotaEffectAnswer, RemedyAnswer


class ForecastHostAnswer(Answer):
    instance = serializers.CharField(help_text="name")
    id = serializers.UUIDField(help_text="of the host")
    name = serializers.CharField()


class ForecastPriceAnswer(Answer):
    per_hour = serializers.DecimalField(max_digits=24, decimal_places=6, help_text="all instances together")
    currency = serializers.CharField()


class ForecastAnswer(Answer):
    operator_only = ("hosts",)

    fits = serializers.BooleanField()
    count = serializers.IntegerField()
    how_many = serializers.IntegerField(help_text="such instances that would be taken now, 100 at most")
    refused_by = serializers.ListField(child=serializers.CharField(), help_text="codes of the problems it would meet")
    summary = serializers.ListField(child=serializers.CharField(), help_text="sentences")
    remedies = RemedyAnswer(many=True, help_text="the smallest changes that would make it fit")
    quota = QuotaEffectAnswer(many=True, help_text="before and after, at every level that the caller sees")
    price = ForecastPriceAnswer(allow_null=True, help_text="null: the price book is empty")
    hosts = ForecastHostAnswer(many=True, help_text="where they would go")
