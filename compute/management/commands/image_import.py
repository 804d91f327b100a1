"""Bring a guest image from a local file into the pool's storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from compute.services.catalog import import_image
from tenants.errors import DomainError
from tenants.services.access import system_actor


class Command(BaseCommand):
    help = "Import an image from a trusted local file. The same name and content again changes nothing."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--name", required=True)
        parser.add_argument("--file", required=True, type=Path)
        parser.add_argument("--kind", required=True, choices=["vm", "container"])
        parser.add_argument("--boot", required=True, choices=["disk", "kernel", "init"])
        parser.add_argument("--format", choices=["qcow2", "raw", "rootfs-tar"], help="default: by kind")
        parser.add_argument("--virtual-size-gib", type=int, default=1)
        parser.add_argument("--kernel", type=Path)
        parser.add_argument("--initrd", type=Path)
        parser.add_argument("--kernel-args", default="")
        parser.add_argument("--user", default="cenote", help="the user that SSH keys are for")
        parser.add_argument("--description", default="")
        parser.add_argument("--storage", type=Path, default=None, help="the pool's storage as this machine sees it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            image = import_image(
                actor=system_actor("image_import"),
                storage=options["storage"] or settings.STORAGE_DIR,
                name=options["name"],
                file=options["file"],
                kind=options["kind"],
                format=options["format"] or ("qcow2" if options["kind"] == "vm" else "rootfs-tar"),
                boot=options["boot"],
                virtual_size_gib=options["virtual_size_gib"],
                kernel=options["kernel"],
                initrd=options["initrd"],
                kernel_args=options["kernel_args"],
                default_user=options["user"],
                description=options["description"],
            )
        except (DomainError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(str(image.id))
