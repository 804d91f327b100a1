"""Where the guests of a host would go were they not on it, one after another, on one look without a lock. Nothing is taken."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from compute.placement.groups import Members
from compute.placement.place import Leaving, Refused, plan_seats
from compute.placement.reservations import Reservation, ask_chain
from compute.scheduler.model import Policy, Request
from compute.scheduler.snapshot import Snapshot


@dataclass(slots=True)
class Foresight:
    """The hosts of a pool as they would be with the guests brought back so far. Asks the database once for each group and tenant."""

    pool_id: uuid.UUID
    lost: uuid.UUID
    snapshot: Snapshot
    _members: dict[str, Members] = field(default_factory=dict)
    _reservations: dict[uuid.UUID, Reservation | None] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot, *, pool_id: uuid.UUID, lost: uuid.UUID) -> Foresight:
        """Begin with a pool's hosts as they were looked at, without the lost one."""
        return cls(pool_id, lost, Snapshot.from_hosts(host for host in snapshot.hosts if host.id != str(lost)))

    def bring_back(
        self,
        *,
        consumer: uuid.UUID,
        request: Request,
        policy: Policy,
        tenant_path: tuple[uuid.UUID, ...] = (),
        leaving: Leaving | None = None,
    ) -> uuid.UUID | Refused:
        """Return the host that the guest would be started on, and count it there; or why there is none.

        With an empty `tenant_path` from room that nobody has reserved alone, as a migration does.
        """
        members = self._members_of(request)
        told = members.told(request)
        reservation = self._reservation(tenant_path) if tenant_path and request.numa is None else None
        if reservation is not None and leaving is not None:
            leaving.give_back(reservation)
        plan = plan_seats((consumer,), told, policy, members.shown(self.snapshot), reservation)
        if isinstance(plan, Refused):
            return plan
        seat = plan.seats[consumer]
        host_id = str(seat.host_id)
        if seat.grant_id is None:
            self.snapshot = self.snapshot.after(host_id, request.resources, numa=request.numa)
        if request.group is not None:
            domain = self.snapshot.hosts[self.snapshot.row_of[host_id]].failure_domain
            self._members[request.group] = Members(
                request.group, _one_more(members.on_host, host_id), _one_more(members.in_domain, domain)
            )
        return seat.host_id

    def name_of(self, host_id: uuid.UUID) -> str:
        """Return a host's name."""
        return self.snapshot.hosts[self.snapshot.row_of[str(host_id)]].name

    def _members_of(self, request: Request) -> Members:
        if request.group is None:
            return Members.of(request)
        found = self._members.get(request.group)
        if found is None:
            found = self._members[request.group] = Members.of(request, leaving=self.lost)
        return found

    def _reservation(self, tenant_path: tuple[uuid.UUID, ...]) -> Reservation | None:
        tenant = tenant_path[-1]
        if tenant not in self._reservations:
            chain = ask_chain(pool_id=self.pool_id, tenant_path=tenant_path)()
            self._reservations[tenant] = Reservation.load(pool_id=self.pool_id, chain=chain)
        return self._reservations[tenant]


def _one_more(counts: Mapping[str, int], key: str) -> dict[str, int]:
    return {**counts, key: counts.get(key, 0) + 1} if key else dict(counts)
