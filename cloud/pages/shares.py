"""Delivered against entitled CPU as bars: of a host's tenants in the console, of a tenant's pools in the portal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compute.models import Host
from compute.selectors.shares import PoolShare, Share, read_host_shares, read_tenant_shares
from tenants.models import Tenant
from tenants.services.access import Actor

# Below nine tenths of what it is entitled to, and by more than a hundredth of a CPU: more than smoothing explains.
SHORT_OF: Final = 0.9
NOISE_VCPUS: Final = 0.01


@dataclass(frozen=True, slots=True)
class ShareBar:
    """One line. `width` and `mark` (what is entitled) of 100, all lines on one scale. `depth`: how many shown ones are above."""

    name: str
    depth: int
    share: Share | PoolShare
    applied: int | None
    width: float
    mark: float
    short: bool


def host_bars(*, actor: Actor, host: Host) -> list[ShareBar]:
    """Return a host's tenants, those above before those below."""
    shares = read_host_shares(actor=actor, host=host)
    known = {share.tenant.id for share in shares}
    depths = [sum(above in known for above in share.tenant.path[:-1]) for share in shares]
    most = _most(shares)
    return [
        _bar(share, most, name=share.tenant.name, depth=depth, applied=share.applied)
        for share, depth in zip(shares, depths, strict=True)
    ]


def pool_bars(*, actor: Actor, tenant: Tenant) -> list[ShareBar]:
    """Return the pools where a tenant's guests run."""
    shares = read_tenant_shares(actor=actor, tenant=tenant)
    most = _most(shares)
    return [_bar(share, most, name=share.pool.name, depth=0, applied=None) for share in shares]


def _most(shares: Sequence[Share | PoolShare]) -> float:
    return max((max(share.delivered, share.entitled) for share in shares), default=0.0) or 1.0


def _bar(share: Share | PoolShare, most: float, *, name: str, depth: int, applied: int | None) -> ShareBar:
    return ShareBar(
        name=name,
        depth=depth,
        share=share,
        applied=applied,
        width=round(100 * share.delivered / most, 2),
        mark=round(99 * share.entitled / most, 2),
        short=share.delivered < SHORT_OF * share.entitled and share.entitled - share.delivered > NOISE_VCPUS,
    )
