"""Python's collector of cyclic garbage, set for processes that keep much in memory for long and serve short requests.

Each web worker keeps all hosts in memory (docs/adr/0012). By default the collector looks for cycles at each 700 new
containers, several times a request, and its full rounds walk over everything kept: measured at 5,000 hosts, a tenth of a
placement's CPU. See https://docs.python.org/3/library/gc.html (`gc.freeze`, `gc.set_threshold`).
"""

from __future__ import annotations

import gc
from typing import Final

# New containers between two young rounds, young rounds to a middle one, middle ones to a full one. A placement makes some
# thousand containers, hardly any of them in a cycle: what waits for collection stays at a few MiB.
THRESHOLDS: Final = (10_000, 20, 100)


def spare() -> None:
    """Leave what is loaded by now out of all rounds, and make rounds rarer. For one process; before it serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
