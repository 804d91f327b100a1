"""The one formula of what fits. Ranking asks it on a snapshot; the claim asks it again under the host's row lock.

Both ask the same function, so that they can disagree about how full a host is, but never about what full means.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from compute.scheduler.model import RESOURCES, UNITS, Inventory, Resources, Shortfall

Amount = TypeVar("Amount", int, NDArray[np.int64])


def room(capacity: Amount, used: Amount) -> Amount:
    """Return what is left of one resource, of one host or of a column of hosts; below 0 where a host shrank."""
    return capacity - used


def fits(inventory: Inventory, used: Resources, asked: Resources) -> tuple[Shortfall, ...]:
    """Return what is missing for `asked` to fit beside `used`, one Shortfall per resource; empty means that it fits.

    A resource of which nothing is asked never refuses, not even on a host that has shrunk below its use.
    """
    capacity = inventory.capacity()
    missing = []
    for resource in RESOURCES:
        wanted: int = getattr(asked, resource)
        free = room(getattr(capacity, resource), getattr(used, resource))
        if wanted > 0 and wanted > free:
            missing.append(Shortfall(resource, wanted, free, free - wanted, UNITS[resource]))
    return tuple(missing)
