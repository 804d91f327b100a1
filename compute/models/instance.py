"""What a tenant asked for: a VM or a container."""

from typing import Final

from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import models
from django.db.models import F, Q

from compute.models.catalog import Flavor, Image
from compute.models.group import Group
from compute.models.host import Host
from compute.models.pool import Pool
from tenants.models.ids import new_id
from tenants.scope import TenantOwned

LEASE_HAS_WORK: Final = Q(lease_action="delete", state__in=["building", "active", "error", "failed"]) | Q(
    lease_action="stop", desired_power="running", state__in=["active", "error"]
)
"""Which leases do something when they end: who is to be stopped already, or is being deleted, is left alone."""


class Instance(TenantOwned):
    """Columns by owner: `state` transitions.py; `desired_power` the tenant's wish (services); `host` placement;
    `token` the engine. What the host reports of it lives in Domain, which the observer alone writes.

    Sizes, keys and user data are copies: changing a flavor or a keypair never changes a running guest.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63)
    kind = models.CharField(max_length=16, choices=[("vm", "vm"), ("container", "container")])
    state = models.CharField(max_length=16, default="building")
    desired_power = models.CharField(max_length=16, default="running")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="+")
    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.PROTECT, related_name="instances")
    group = models.ForeignKey(Group, null=True, blank=True, on_delete=models.SET_NULL, related_name="instances")
    flavor = models.ForeignKey(Flavor, on_delete=models.PROTECT, related_name="+")
    image = models.ForeignKey(Image, on_delete=models.PROTECT, related_name="+")
    vcpus = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    disk_gib = models.PositiveIntegerField()
    keys = models.JSONField(default=list, blank=True, help_text="[{name, public_key}] as they were at create")
    user_data = models.TextField(blank=True, help_text="may hold secrets: never listed, never logged")
    tags = models.JSONField(default=dict, blank=True)
    evacuation_priority = models.PositiveSmallIntegerField(
        default=50, help_text="0 to 100: when its host is lost, higher ones come back first"
    )
    disruption = models.CharField(
        max_length=8,
        default="live",
        db_default="live",
        choices=[("live", "live"), ("restart", "restart"), ("consent", "consent")],
        help_text="how the cloud may move it: while it runs, also by a restart, or not without being asked",
    )
    pause_limit_ms = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="the longest pause of a live migration that plans may allow; null: as they like",
    )
    lease_ends_at = models.DateTimeField(null=True, blank=True, help_text="null: it may stay for ever")
    lease_action = models.CharField(
        max_length=8,
        blank=True,
        default="",
        db_default="",
        choices=[("stop", "stop"), ("delete", "delete")],
        help_text="what happens to it when its lease ends",
    )
    decision_id = models.UUIDField(null=True, blank=True, help_text="the Decision by which it is where it is")
    error = models.JSONField(null=True, blank=True, help_text="{code, message} for the tenant")
    token = models.BigIntegerField(default=0, help_text="fencing token: raised by every new HostCall that changes it")
    version = models.PositiveIntegerField(default=1)
    created_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta(TenantOwned.Meta):
        indexes = [
            models.Index(
                fields=["tenant", "-created_at", "-id"], condition=~Q(state="deleted"), name="instance_tenant_live"
            ),
            # The whole cloud's list, for operators, and what it is narrowed by.
            models.Index(fields=["-created_at", "-id"], condition=~Q(state="deleted"), name="instance_live_newest"),
            models.Index(fields=["name"], condition=~Q(state="deleted"), name="instance_live_name"),
            GinIndex(
                OpClass(F("name"), name="gin_trgm_ops"), condition=~Q(state="deleted"), name="instance_live_name_part"
            ),
            models.Index(
                fields=["host"], condition=Q(state="active", desired_power="stopped"), name="instance_wished_stopped"
            ),
            models.Index(fields=["host"], condition=~Q(state="deleted"), name="instance_host_live"),
            models.Index(
                fields=["state"], condition=Q(state__in=["building", "deleting", "error"]), name="instance_unsettled"
            ),
            # Leases that will do something at their end: the reconciler's and the remedies' question.
            models.Index(fields=["lease_ends_at"], condition=LEASE_HAS_WORK, name="instance_lease_end"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["building", "active", "error", "failed", "deleting", "deleted"]),
                name="instance_state_known",
            ),
            models.CheckConstraint(
                condition=Q(disruption__in=["live", "restart", "consent"]), name="instance_disruption_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["failed", "deleting", "deleted"]) | Q(host__isnull=False),
                name="instance_has_its_host",
            ),
            models.CheckConstraint(
                condition=Q(lease_ends_at=None, lease_action="")
                | Q(lease_ends_at__isnull=False, lease_action__in=["stop", "delete"]),
                name="instance_lease_whole",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ConsoleLog(models.Model):
    """The newest console output that a host sent, so that a request never waits on a hypervisor."""

    instance = models.OneToOneField(Instance, primary_key=True, on_delete=models.CASCADE, related_name="console")
    text = models.TextField(blank=True)
    fetched_at = models.DateTimeField()
