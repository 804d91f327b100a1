"""Rows -> the InstanceSpec that crosses the trust line. Nothing of another tenant or host is in it."""

from __future__ import annotations

import uuid
from typing import cast

from compute.models import Allocation, Instance, Network, Port
from compute.wire import Boot, CellSpec, DiskSpec, ImageFormat, ImageRef, InstanceSpec, Kind, NetworkSpec, NicSpec


def network_spec(network: Network) -> NetworkSpec:
    """Return one network as hosts need it."""
    return NetworkSpec(
        id=str(network.id),
        vni=network.vni,
        cidr=network.cidr,
        gateway=network.gateway,
        mtu=network.mtu,
        dns=tuple(network.dns),
    )


def nic_spec(port: Port) -> NicSpec:
    """Return one port as its host needs it. Needs `port.network` loaded."""
    return NicSpec(
        port_id=str(port.id), mac=port.mac, address=port.address, network=network_spec(port.network), device=port.device
    )


def load_instance(instance_id: uuid.UUID) -> Instance:
    """Return the instance with its image and flavor, as a saga step needs it."""
    return Instance.unscoped.select_related("image", "tenant", "flavor").get(id=instance_id)


def _cells(instance: Instance) -> tuple[CellSpec, ...]:
    held = Allocation.objects.filter(consumer_type="instance", consumer_id=instance.id, cells__isnull=False).first()
    return () if held is None else tuple(CellSpec.from_json(share) for share in held.cells or ())


def instance_spec(instance: Instance) -> InstanceSpec:
    """Return all a host needs to make this instance exist. Needs its image, tenant and flavor loaded."""
    image = instance.image
    ports = Port.unscoped.filter(instance=instance).select_related("network").order_by("created_at", "id")
    return InstanceSpec(
        id=str(instance.id),
        tenant_id=str(instance.tenant_id),
        name=instance.name,
        kind=cast(Kind, instance.kind),
        vcpus=instance.vcpus,
        memory_mib=instance.memory_mib,
        disk=DiskSpec(
            id=str(instance.id),
            size_gib=instance.disk_gib,
            image=ImageRef(
                id=str(image.id),
                format=cast(ImageFormat, image.format),
                sha256=image.sha256,
                size_bytes=image.size_bytes,
                virtual_size_gib=image.virtual_size_gib,
                boot=cast(Boot, image.boot),
                kernel_args=image.kernel_args,
            ),
        ),
        nics=tuple(nic_spec(port) for port in ports),
        cpu_shares=1024 * instance.vcpus,
        cpu_model=instance.flavor.cpu_model,
        cpu_flags=tuple(instance.flavor.cpu_flags),
        cells=_cells(instance),
        partition=tuple(str(tenant) for tenant in instance.tenant.path),
        ssh_keys=tuple(key["public_key"] for key in instance.keys),
        user_data=instance.user_data,
    )
