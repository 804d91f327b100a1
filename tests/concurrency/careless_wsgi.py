"""The web application with its locks taken out, for the controls: what happens when nobody thinks of others.

Claims look at a host's sums without locking it; a charge reads the quota, waits a moment, and writes what it worked out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from cloud.wsgi import application
from compute.placement import claims
from tenants.errors import QuotaExceeded
from tenants.models import Quota, Tenant
from tenants.services import quotas
from tenants.services.access import Actor

__all__ = ["application"]

_honest_fits = claims.fits


def _slow_fits(*arguments: Any, **options: Any) -> Any:
    verdict = _honest_fits(*arguments, **options)
    time.sleep(0.05)
    return verdict


def _careless_charge(*, tenant: Tenant, amounts: Mapping[str, int], actor: Actor | None = None) -> Callable[[], None]:
    rows = list(Quota.unscoped.filter(tenant_id__in=tenant.path, resource__in=list(amounts)))
    for row in rows:
        if row.limit is not None and row.used + amounts[row.resource] > row.limit:
            raise QuotaExceeded(resource=row.resource)
    time.sleep(0.3)
    for row in rows:
        Quota.unscoped.filter(id=row.id).update(used=row.used + amounts[row.resource])
    return lambda: None


claims._LOCK = claims._LOCK_IF_FREE = ""  # type: ignore[misc]  # the locks that are taken out
claims.fits = _slow_fits
quotas.charge_last = _careless_charge
