"""What can be asked for: flavors, images; and the keys that get in."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from tenants.models.ids import new_id
from tenants.scope import TenantOwned

LEAST_MEMORY_MIB = 16
"""Of a flavor: what the smallest guest needs to start at all."""


class Flavor(models.Model):
    """A size, and what it asks of processors. `kind` blank: for VMs and containers alike.

    Sizes of existing instances are copies and never change; what a flavor asks beyond its size never changes itself.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63, unique=True)
    vcpus = models.PositiveIntegerField()
    memory_mib = models.PositiveIntegerField()
    disk_gib = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, blank=True, choices=[("vm", "vm"), ("container", "container")])
    cpu_model = models.CharField(
        max_length=63, blank=True, help_text="libvirt's name of the processor that its VMs get; blank: the pool's"
    )
    cpu_flags = ArrayField(
        models.CharField(max_length=63),
        default=list,
        blank=True,
        help_text="what that processor must have beyond its model",
    )
    numa_nodes = models.PositiveSmallIntegerField(
        default=0, help_text="over how many NUMA cells it is spread, evenly; 0: wherever the host likes"
    )
    hugepages_kib = models.PositiveIntegerField(
        default=0, help_text="size of the pages of its memory; 0: ordinary ones"
    )
    pinned = models.BooleanField(default=False, help_text="each of its vCPU has a CPU to itself")
    active = models.BooleanField(default=True)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["vcpus", "memory_mib", "name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(vcpus__gte=1, memory_mib__gte=LEAST_MEMORY_MIB, disk_gib__gte=1), name="flavor_has_a_size"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Image(models.Model):
    """Immutable after import: what an approved checksum stood for stays what it stands for."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63)
    kind = models.CharField(max_length=16, choices=[("vm", "vm"), ("container", "container")])
    format = models.CharField(max_length=16, choices=[("qcow2", "qcow2"), ("raw", "raw"), ("rootfs-tar", "rootfs-tar")])
    boot = models.CharField(max_length=8, choices=[("disk", "disk"), ("kernel", "kernel"), ("init", "init")])
    kernel_args = models.CharField(max_length=512, blank=True)
    default_user = models.CharField(max_length=32, default="cenote")
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    virtual_size_gib = models.PositiveIntegerField()
    description = models.CharField(max_length=255, blank=True)
    active = models.BooleanField(default=True)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["name"], condition=Q(active=True), name="image_active_name_unique"),
        ]

    def __str__(self) -> str:
        return self.name


class Keypair(TenantOwned):
    """A public SSH key of a tenant. Instances keep a copy of what they were made with."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63)
    public_key = models.TextField()
    fingerprint = models.CharField(max_length=64)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TenantOwned.Meta):
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="keypair_name_unique_in_tenant")]

    def __str__(self) -> str:
        return self.name
