"""A host: a machine that runs domains, with what it offers, what is taken, and what it showed of itself."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from compute.models.pool import Pool
from tenants.models.ids import new_id


class Host(models.Model):
    """Columns by owner: `admin_state` the operator; `observed_state`, inventory, proof and times what the host reports;
    `used_*` the ledger (`placement.claims` alone writes them); `token` the engine.

    `held_*` is room set aside for promises and not yet in use (SetAside); to all others it is as good as used.
    `ceiling_*` is the most that `used_*` and `held_*` may ever be together: the capacity (total - reserved) x ratio, or what was already in
    use where the capacity has shrunk below it. The CHECK makes an oversold host an error, not a number.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63, unique=True)
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="hosts")
    address = models.GenericIPAddressField(help_text="on the underlay: VXLAN and migration")

    admin_state = models.CharField(max_length=16, default="enrolling")
    observed_state = models.CharField(max_length=16, default="unknown")
    state_reason = models.CharField(max_length=255, blank=True)

    total_vcpus = models.PositiveIntegerField(default=0)
    total_memory_mib = models.PositiveIntegerField(default=0)
    total_disk_gib = models.PositiveIntegerField(default=0)
    reserved_vcpus = models.PositiveIntegerField(default=0)
    reserved_memory_mib = models.PositiveIntegerField(default=0)
    reserved_disk_gib = models.PositiveIntegerField(default=0)
    used_vcpus = models.PositiveIntegerField(default=0)
    used_memory_mib = models.PositiveIntegerField(default=0)
    used_disk_gib = models.PositiveIntegerField(default=0)
    used_instances = models.PositiveIntegerField(default=0)
    held_vcpus = models.PositiveIntegerField(default=0)
    held_memory_mib = models.PositiveIntegerField(default=0)
    held_disk_gib = models.PositiveIntegerField(default=0)
    ceiling_vcpus = models.PositiveIntegerField(default=0)
    ceiling_memory_mib = models.PositiveIntegerField(default=0)
    ceiling_disk_gib = models.PositiveIntegerField(default=0)

    modes = ArrayField(models.CharField(max_length=8), default=list, blank=True, help_text="kvm, qemu, lxc, as proved")
    traits = ArrayField(models.CharField(max_length=63), default=list, blank=True)
    failure_domain = models.CharField(max_length=63, blank=True, help_text="what fails together: a rack, a power feed")
    facts = models.JSONField(
        default=dict, blank=True, help_text="versions, CPU model, cgroup version: wire.HostInventory"
    )
    numa_used = models.JSONField(
        default=list, blank=True, help_text="what guests have of which NUMA cell: the ledger's"
    )
    proof = models.JSONField(default=dict, blank=True, help_text="last enrolment proof: wire.HostProof")
    proved_at = models.DateTimeField(null=True, blank=True)

    boot_id = models.CharField(max_length=64, blank=True)
    booted_at = models.DateTimeField(null=True, blank=True, help_text="when its boot id was first seen to differ")
    last_seen_at = models.DateTimeField(null=True, blank=True)
    observed_at = models.DateTimeField(null=True, blank=True, help_text="last successful listing of its domains")
    strays = models.JSONField(default=list, blank=True, help_text="domains with our mark that do not belong here")
    stray_disks = models.JSONField(default=list, blank=True, help_text="instance directories without a live instance")
    clock_skew_seconds = models.FloatField(default=0.0)
    node_token_hash = models.CharField(max_length=64, blank=True, db_index=True)
    token = models.BigIntegerField(default=0, help_text="fencing token of calls whose target is the host itself")
    version = models.PositiveIntegerField(default=1)
    changed_in = models.BigIntegerField(
        default=0,
        editable=False,
        db_index=True,
        help_text="transaction that changed what scheduling sees; by a trigger",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        indexes = [models.Index(fields=["pool", "admin_state", "observed_state"], name="host_pool_states")]
        constraints = [
            models.CheckConstraint(
                condition=Q(ceiling_vcpus__gte=F("used_vcpus") + F("held_vcpus")), name="host_vcpus_never_over"
            ),
            models.CheckConstraint(
                condition=Q(ceiling_memory_mib__gte=F("used_memory_mib") + F("held_memory_mib")),
                name="host_memory_never_over",
            ),
            models.CheckConstraint(
                condition=Q(ceiling_disk_gib__gte=F("used_disk_gib") + F("held_disk_gib")), name="host_disk_never_over"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class JoinToken(models.Model):
    """A one-time token by which a machine becomes a host. Only its SHA-256 is kept."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE)
    name = models.CharField(
        max_length=63, blank=True, help_text="the host name it is bound to; blank: the machine's own"
    )
    token_hash = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    host = models.ForeignKey(Host, null=True, blank=True, on_delete=models.SET_NULL)
    created_at = models.DateTimeField(auto_now_add=True)
