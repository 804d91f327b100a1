"""Moves of several guests, shown as a whole before the first of them begins, and carried out step by step."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from compute.models.host import Host
from compute.models.instance import Instance
from compute.models.migration import Migration
from compute.models.pool import Pool
from tenants.models.ids import new_id


class Plan(models.Model):
    """What it is for, what it rests on, and how far it is.

    `fingerprint` is of what it rests on: applied later, the plan is drawn up anew and has to have the same one.
    `refusals`: [{code, detail}], for which it cannot be applied as it is. `survival`: {losses, before, after}: how many
    sets of that many hosts could not be lost without leaving a guest without a place, at first and after each step.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=16, choices=[("drain", "drain"), ("rebalance", "rebalance")])
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="plans")
    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.PROTECT, related_name="plans")
    state = models.CharField(max_length=16, default="proposed")
    options = models.JSONField(default=dict, blank=True)
    fingerprint = models.CharField(max_length=64)
    refusals = models.JSONField(default=list, blank=True)
    survival = models.JSONField(null=True, blank=True)
    summary = models.JSONField(default=dict, blank=True, help_text="what it is expected to bring, for people")
    reason = models.CharField(max_length=1000, blank=True, help_text="why it is paused, or what keeps it from its end")
    actor = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(help_text="until when it can be applied")
    applied_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    version = models.PositiveIntegerField(default=1)

    class Meta:
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="plan_newest"),
            models.Index(fields=["expires_at"], condition=Q(state="proposed"), name="plan_proposed"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["proposed", "running", "paused", "stopped", "finished", "aborted", "expired"]),
                name="plan_state_known",
            ),
            models.CheckConstraint(
                condition=Q(kind="rebalance") | Q(host__isnull=False), name="plan_drain_has_its_host"
            ),
            models.UniqueConstraint(
                fields=["host"], condition=Q(state__in=["running", "paused", "stopped"]), name="plan_one_open_per_host"
            ),
            models.UniqueConstraint(
                fields=["pool"],
                condition=Q(kind="rebalance", state__in=["running", "paused", "stopped"]),
                name="plan_one_open_rebalance_per_pool",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.host or self.pool}"


class PlanStep(models.Model):
    """One guest of a plan, and its fate. `way` "none": it cannot go; `code` and `message` say why, or why it failed last.

    `after`: numbers of the steps that have to have ended before, for the room that they make. `destination` is where it
    is to go; one that fills up meanwhile is replaced in a drain. `migration` is the newest try.
    """

    plan = models.ForeignKey(Plan, on_delete=models.CASCADE, related_name="steps")
    number = models.PositiveIntegerField(help_text="from 1, in the order in which they begin")
    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="+")
    source = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="+")
    destination = models.ForeignKey(Host, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    way = models.CharField(max_length=8, choices=[("live", "live"), ("cold", "cold"), ("none", "none")])
    state = models.CharField(max_length=16, default="waiting")
    after = ArrayField(models.PositiveIntegerField(), default=list, blank=True)
    reason = models.CharField(max_length=255, blank=True, help_text="why the plan has it")
    code = models.CharField(max_length=32, blank=True)
    message = models.CharField(max_length=1000, blank=True)
    forecast = models.JSONField(null=True, blank=True)
    migration = models.ForeignKey(Migration, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    tries = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "running", "done", "skipped", "failed", "blocked"]),
                name="plan_step_state_known",
            ),
            models.CheckConstraint(condition=Q(way__in=["live", "cold", "none"]), name="plan_step_way_known"),
            models.UniqueConstraint(fields=["plan", "number"], name="plan_step_numbered_once"),
            models.UniqueConstraint(
                fields=["instance"], condition=Q(state="running"), name="plan_step_one_running_per_instance"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.plan_id} {self.number}"
