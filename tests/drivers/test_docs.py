"""What docs/drivers.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_file_that_the_page_names_exists() -> None:
    page = (REPOSITORY / "docs" / "drivers.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(named) > 8
    for row in rows:
        first, *others = re.findall(r"`([^`]+)`", row)
        for name in (first, *(f"{Path(first).parent}/{other}" for other in others)):
            assert list((REPOSITORY / "compute" / "node").glob(name.rstrip("/"))), name
