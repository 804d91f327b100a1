"""Python's collector of cyclic garbage, set for processes that keep much in memory for long and serve short requests.

Each web worker keeps all hosts in memory (docs/adr/0012). By default the collector looks for cycles at each 700 new
containers, several times a request, and walks over much of what is kept: without it a placement among 5,000 hosts took a
tenth less CPU. See https://docs.python.org/3/library/gc.html (`gc.freeze`, `gc.set_threshold`).
"""

from __future__ import annotations

import gc
from typing import Final

# New containers between two young rounds; young rounds to a middle one, middle ones to a full one, as by default: rarer
# ones let a worker grow by 8 MiB in 18,000 creates, these keep it as small as Python's own do (docs/measurements.md).
THRESHOLDS: Final = (10_000, 10, 10)


def spare() -> None:
    """Leave what is loaded by now out of all rounds, and make rounds rarer. For one process; before it serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
