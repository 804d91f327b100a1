"""Write the OpenAPI file that is checked in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from django.conf import settings
from django.core.management.base import BaseCommand

from cloud.api.schema import build_schema


class Command(BaseCommand):
    help = "Write docs/openapi-v1.yaml from the routes as they are."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--file", type=Path, default=settings.BASE_DIR / "docs" / "openapi-v1.yaml")

    def handle(self, *args: Any, **options: Any) -> None:
        text = yaml.safe_dump(build_schema(), sort_keys=False, allow_unicode=True, width=120)
        options["file"].write_text(text)
        self.stdout.write(f"{options['file']}: {len(build_schema()['paths'])} paths")
