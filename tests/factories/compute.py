"""The smallest valid pools, hosts, flavors and images; instances come from the services, so that every row is there."""

from __future__ import annotations

import itertools

from django.utils import timezone

from compute.models import Flavor, Host, Image, Network, Pool
from compute.placement.inventory import apply_ceilings
from compute.services.nodes import token_hash

_numbers = itertools.count(1)


def make_pool(
    name: str | None = None, *, vcpu_ratio: float = 1.0, cidr: str | None = None, policy: str = "spread"
) -> Pool:
    """A pool with its network."""
    number = next(_numbers)
    pool = Pool.objects.create(name=name or f"pool{number}", vcpu_ratio=vcpu_ratio, policy=policy)
    base = cidr or f"10.{100 + number % 100}.0.0/20"
    Network.objects.create(pool=pool, name="default", cidr=base, gateway=base.replace(".0/20", ".1"), vni=5000 + number)
    return pool


def make_host(
    pool: Pool,
    *,
    vcpus: int = 8,
    memory_mib: int = 8192,
    disk_gib: int = 100,
    name: str | None = None,
    admin_state: str = "enabled",
    observed_state: str = "up",
    modes: tuple[str, ...] = ("qemu", "lxc"),
) -> Host:
    """An enabled host that was heard a moment ago. Its node token is `node-<name>`."""
    number = next(_numbers)
    name = name or f"host{number}"
    host = Host.objects.create(
        name=name,
        pool=pool,
        address=f"10.97.{number // 250 % 250}.{number % 250 + 1}",
        admin_state=admin_state,
        observed_state=observed_state,
        modes=list(modes),
        total_vcpus=vcpus,
        total_memory_mib=memory_mib,
        total_disk_gib=disk_gib,
        last_seen_at=timezone.now(),
        observed_at=timezone.now(),
        proved_at=timezone.now(),
        node_token_hash=token_hash(f"node-{name}"),
    )
    apply_ceilings(host=host)
    return host


def make_flavor(name: str | None = None, *, vcpus: int = 1, memory_mib: int = 256, disk_gib: int = 1) -> Flavor:
    return Flavor.objects.create(
        name=name or f"flavor{next(_numbers)}", vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib
    )


def make_image(name: str | None = None, *, kind: str = "vm") -> Image:
    return Image.objects.create(
        name=name or f"image{next(_numbers)}",
        kind=kind,
        format="qcow2" if kind == "vm" else "rootfs-tar",
        boot="kernel" if kind == "vm" else "init",
        sha256="0" * 64,
        size_bytes=1,
        virtual_size_gib=1,
    )
