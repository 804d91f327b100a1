"""Networks and ports. For now one network per pool, shared by its tenants; `tenant` on Network is the place for isolation."""

from django.contrib.postgres.indexes import OpClass
from django.db import models
from django.db.models import F, Func

from compute.models.instance import Instance
from compute.models.pool import Pool
from tenants.models.ids import new_id
from tenants.scope import TenantOwned


class Network(models.Model):
    """One layer 2 across the pool's hosts. `tenant` null: shared by all tenants of the pool."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="networks")
    tenant = models.ForeignKey("tenants.Tenant", null=True, blank=True, on_delete=models.PROTECT)
    name = models.CharField(max_length=63)
    cidr = models.CharField(max_length=43)
    gateway = models.GenericIPAddressField()
    vni = models.PositiveIntegerField(unique=True, help_text="VXLAN network identifier, below 2^24")
    mtu = models.PositiveIntegerField(default=1450)
    dns = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["pool", "name"], name="network_name_unique_in_pool")]

    def __str__(self) -> str:
        return self.name


class Port(TenantOwned):
    """An instance's place on a network. Address and MAC are taken in the create transaction and kept for its whole life."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    network = models.ForeignKey(Network, on_delete=models.PROTECT, related_name="ports")
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="ports")
    mac = models.CharField(max_length=17, unique=True)
    address = models.GenericIPAddressField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TenantOwned.Meta):
        indexes = [
            # As Django asks for the beginning of an address: HOST(address) LIKE '10.64.%'.
            models.Index(
                OpClass(Func(F("address"), function="HOST", output_field=models.TextField()), name="text_pattern_ops"),
                name="port_address_text",
            )
        ]
        constraints = [models.UniqueConstraint(fields=["network", "address"], name="port_address_unique_in_network")]

    @property
    def device(self) -> str:
        """Host-side interface name: 14 of the 15 characters Linux allows, from the id's random end."""
        return f"cnp{self.id.hex[-11:]}"
