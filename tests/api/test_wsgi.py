"""The process that serves the API."""

from __future__ import annotations

import subprocess
import sys

from cloud import collector

_TOLD = "import gc; import cloud.wsgi; print(*gc.get_threshold(), gc.get_freeze_count() > 10_000)"


def test_its_collector_of_garbage_spares_what_it_keeps() -> None:
    told = subprocess.run([sys.executable, "-c", _TOLD], capture_output=True, text=True, check=True).stdout.split()
    assert told == [*map(str, collector.THRESHOLDS), "True"]
