"""Pools, networks, flavors and images: what operators offer."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from django.db import IntegrityError, transaction
from django.db.models import Max

from compute.models import Flavor, Image, Network, Pool
from compute.models.catalog import LEAST_MEMORY_MIB
from compute.placement.inventory import apply_ceilings
from compute.placement.promises import arrange, lock_hosts
from compute.services.checks import check_name
from compute.services.grants import not_placeable
from tenants.errors import InvalidInput, NameTaken, NotFound, VersionMismatch
from tenants.models.ids import new_id
from tenants.services import audit
from tenants.services.access import Actor, authorize

FIRST_VNI = 4096


def create_pool(
    *, actor: Actor, name: str, cidr: str, vcpu_ratio: float = 4.0, policy: str = "spread", description: str = ""
) -> Pool:
    """Make a pool with its network: the first address of `cidr` is the gateway. Raises InvalidInput, NameTaken."""
    authorize(actor, "pool.create", None)
    check_name(name)
    try:
        net = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise InvalidInput.field("/cidr", "invalid_cidr", f"Give an IPv4 network such as 10.80.0.0/20: {error}.")
    if net.num_addresses < 64:
        raise InvalidInput.field("/cidr", "invalid_cidr", "The network needs at least 64 addresses (a /26).")
    with transaction.atomic(durable=True):
        try:
            with transaction.atomic():
                pool = Pool.objects.create(name=name, vcpu_ratio=vcpu_ratio, policy=policy, description=description)
        except IntegrityError:
            raise NameTaken(f"There is a pool called {name} already.") from None
        highest = Network.objects.aggregate(highest=Max("vni"))["highest"] or FIRST_VNI - 1
        Network.objects.create(pool=pool, name="default", cidr=str(net), gateway=str(net[1]), vni=highest + 1)
        audit.record(actor=actor, action="pool.create", target=pool, after={"cidr": str(net), "vcpu_ratio": vcpu_ratio})
        return pool


def update_pool(
    *,
    actor: Actor,
    pool_id: uuid.UUID,
    vcpu_ratio: float | None = None,
    host_losses: int | None = None,
    auto_fence: bool | None = None,
    auto_evacuate: bool | None = None,
    if_version: int | None = None,
) -> Pool:
    """Change how many vCPU a thread carries, how many host losses promises must outlive (N+k), what a loss sets going.

    Every host's ceiling, and the room set aside for promises, follow in the same transaction. Raises InvalidInput, NotFound,
    VersionMismatch, and PromiseNotPlaceable where what is promised could not be kept then.
    """
    authorize(actor, "pool.update", None)
    if vcpu_ratio is not None and not 1 <= vcpu_ratio <= 64:
        raise InvalidInput.field("/vcpu_ratio", "out_of_range", "The ratio is between 1 and 64.")
    with transaction.atomic(durable=True):
        hosts = lock_hosts(pool_id=pool_id)
        # Read under the lock: ceilings worked out from ratios of a moment ago would stay wrong.
        pool = Pool.objects.select_for_update(no_key=True).filter(id=pool_id).first()
        if pool is None:
            raise NotFound
        if if_version is not None and pool.version != if_version:
            raise VersionMismatch(version=pool.version)
        wanted = {
            "vcpu_ratio": vcpu_ratio,
            "host_losses": host_losses,
            "auto_fence": auto_fence,
            "auto_evacuate": auto_evacuate,
        }
        after = {name: value for name, value in wanted.items() if value is not None}
        before = {name: getattr(pool, name) for name in after}
        for name, value in after.items():
            setattr(pool, name, value)
        pool.version += 1
        pool.save(update_fields=[*after, "version"])
        for host in hosts:
            host.pool = pool
            apply_ceilings(host=host)
        broken = arrange(pool=pool, hosts=hosts)
        easier = pool.vcpu_ratio >= before.get("vcpu_ratio", 0) and pool.host_losses <= before.get("host_losses", 100)
        if broken and not easier:
            raise not_placeable(pool, broken)
        audit.record(actor=actor, action="pool.update", target=pool, before=before, after=after)
        return pool


def create_flavor(
    *,
    actor: Actor,
    name: str,
    vcpus: int,
    memory_mib: int,
    disk_gib: int,
    kind: str = "",
    cpu_model: str = "",
    cpu_flags: Sequence[str] = (),
    numa_nodes: int = 0,
    hugepages_kib: int = 0,
    pinned: bool = False,
) -> Flavor:
    """Offer a size. Raises InvalidInput, NameTaken, PermissionDenied.

    `cpu_model`, `cpu_flags`: in libvirt's names; for VMs only. `numa_nodes`: spread evenly over so many NUMA cells, 0
    leaves it to the host; `hugepages_kib`: memory in pages of this size, 0 for ordinary ones; `pinned`: a CPU for each vCPU.
    """
    authorize(actor, "flavor.create", None)
    check_name(name)
    bounds = {
        "vcpus": (vcpus, 1, 512),
        "memory_mib": (memory_mib, LEAST_MEMORY_MIB, 16_777_216),
        "disk_gib": (disk_gib, 1, 65_536),
    }
    for field, (value, low, high) in bounds.items():
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidInput.field(f"/{field}", "out_of_range", f"{field} is a whole number from {low} to {high}.")
    if kind not in ("", "vm", "container"):
        raise InvalidInput.field("/kind", "invalid_kind", "Kind is vm, container, or left out for both.")
    _check_processor(kind, cpu_model, cpu_flags)
    _check_cells(kind, vcpus, memory_mib, numa_nodes, hugepages_kib)
    with transaction.atomic(durable=True):
        try:
            with transaction.atomic():
                flavor = Flavor.objects.create(
                    name=name,
                    vcpus=vcpus,
                    memory_mib=memory_mib,
                    disk_gib=disk_gib,
                    kind=kind,
                    cpu_model=cpu_model,
                    cpu_flags=sorted(set(cpu_flags)),
                    numa_nodes=numa_nodes,
                    hugepages_kib=hugepages_kib,
                    pinned=pinned,
                )
        except IntegrityError:
            raise NameTaken(f"There is a flavor called {name} already.") from None
        audit.record(
            actor=actor,
            action="flavor.create",
            target=flavor,
            after={
                "vcpus": vcpus,
                "memory_mib": memory_mib,
                "disk_gib": disk_gib,
                "cpu_model": cpu_model,
                "cpu_flags": flavor.cpu_flags,
                "numa_nodes": numa_nodes,
                "hugepages_kib": hugepages_kib,
                "pinned": pinned,
            },
        )
        return flavor


def _check_processor(kind: str, cpu_model: str, cpu_flags: Sequence[str]) -> None:
    """Names only: which of them there are is each host's to say, and a host of tomorrow may know more."""
    if cpu_model and not _CPU_WORD.fullmatch(cpu_model):
        raise InvalidInput.field("/cpu_model", "invalid_cpu_model", "A CPU model is a name such as EPYC-Rome.")
    for index, flag in enumerate(cpu_flags):
        if not _CPU_WORD.fullmatch(flag):
            raise InvalidInput.field(f"/cpu_flags/{index}", "invalid_cpu_flag", "A CPU flag is a name such as avx2.")
    if len(cpu_flags) > _MOST_FLAGS:
        raise InvalidInput.field("/cpu_flags", "too_many", f"At most {_MOST_FLAGS} CPU flags.")
    if (cpu_model or cpu_flags) and kind != "vm":
        raise InvalidInput.field(
            "/kind", "kind_mismatch", "A container has its host's processor as it is: ask for CPUs with the kind vm."
        )


def _check_cells(kind: str, vcpus: int, memory_mib: int, numa_nodes: int, hugepages_kib: int) -> None:
    if not 0 <= numa_nodes <= _MOST_NODES:
        raise InvalidInput.field(
            "/numa_nodes", "out_of_range", f"numa_nodes is a whole number from 0 to {_MOST_NODES}."
        )
    if hugepages_kib not in (0, *HUGE_PAGES_KIB):
        sizes = " or ".join(map(str, HUGE_PAGES_KIB))
        raise InvalidInput.field("/hugepages_kib", "invalid_page_size", f"Huge pages have {sizes} KiB; 0 is for none.")
    nodes = numa_nodes or 1
    if vcpus % nodes or memory_mib % nodes:
        raise InvalidInput.field(
            "/numa_nodes", "uneven", f"{vcpus} vCPU and {memory_mib} MiB do not spread evenly over {nodes} cells."
        )
    if hugepages_kib and memory_mib // nodes * 1024 % hugepages_kib:
        raise InvalidInput.field(
            "/hugepages_kib",
            "uneven",
            f"{memory_mib // nodes} MiB a cell are not made of pages of {hugepages_kib} KiB.",
        )
    if (hugepages_kib or nodes > 1) and kind != "vm":
        raise InvalidInput.field(
            "/kind",
            "kind_mismatch",
            "A container has no huge pages and no cells of its own: ask for them with the kind vm.",
        )


HUGE_PAGES_KIB = (2048, 1_048_576)
_MOST_NODES = 8
_CPU_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_MOST_FLAGS = 32
_SUFFIX = {"qcow2": "qcow2", "raw": "raw", "rootfs-tar": "tar"}


def import_image(
    *,
    actor: Actor,
    storage: Path,
    name: str,
    file: Path,
    kind: str,
    format: str,
    boot: str,
    virtual_size_gib: int,
    kernel: Path | None = None,
    initrd: Path | None = None,
    kernel_args: str = "",
    default_user: str = "cenote",
    description: str = "",
) -> Image:
    """Copy a trusted local file into the pool's storage and offer it. Same name and content again: the image there is.

    A new content under an old name retires the old image, which its instances keep: images never change. Files get a
    temporary name first, so a half copy is never offered. Raises InvalidInput, PermissionDenied, OSError.
    """
    authorize(actor, "image.create", None)
    check_name(name)
    if boot == "kernel" and (kernel is None or initrd is None):
        raise InvalidInput.field(
            "/boot", "kernel_missing", "An image with boot=kernel comes with a kernel and an initrd."
        )
    digest = _sha256(file)
    parts = [part for part in (kernel, initrd) if part is not None]
    if parts:
        digest_all = hashlib.sha256(":".join([digest, *map(_sha256, parts), kernel_args]).encode()).hexdigest()
        description = f"{description} [{digest_all[:12]}]".strip()
    known = Image.objects.filter(name=name, active=True).first()
    same = known is not None and known.sha256 == digest and known.description == description
    if known is not None and same and (storage / "images" / f"{known.id}.{_SUFFIX[known.format]}").exists():
        return known
    image_id = new_id()
    folder = storage / "images"
    folder.mkdir(parents=True, exist_ok=True)
    _copy(file, folder / f"{image_id}.{_SUFFIX[format]}")
    if kernel and initrd:
        _copy(kernel, folder / f"{image_id}.kernel")
        _copy(initrd, folder / f"{image_id}.initrd")
    with transaction.atomic(durable=True):
        Image.objects.filter(name=name, active=True).update(active=False)
        image = Image.objects.create(
            id=image_id,
            name=name,
            kind=kind,
            format=format,
            boot=boot,
            kernel_args=kernel_args,
            default_user=default_user,
            sha256=digest,
            size_bytes=file.stat().st_size,
            virtual_size_gib=virtual_size_gib,
            description=description,
        )
        audit.record(actor=actor, action="image.create", target=image, after={"sha256": digest, "kind": kind})
        return image


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.chmod(0o644)
    partial.rename(target)
