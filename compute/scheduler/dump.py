"""A decision as plain JSON data, complete: read back, it is ranked again to the very same result.

All weights are written out, those of the named policy too, so that a record outlives a change of the defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from compute.scheduler.model import (
    WEIGHER_NAMES,
    Candidate,
    HostState,
    Inventory,
    Policy,
    Ranking,
    Reason,
    Refusal,
    Request,
    Resources,
)
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from compute.scheduler.topology import Cell, NumaAsk

DUMP_VERSION: Final = 1

_HOST_SETS: Final = ("modes", "traits", "cpu_models", "cpu_flags", "networks", "storages", "images")
_REQUEST_SETS: Final = (
    *("required_traits", "forbidden_traits", "forbidden_hosts", "exposed_hosts"),
    *("cpu_flags", "cpu_models", "networks", "storages"),
)


_HOST_FIELDS: Final = frozenset(item.name for item in dataclasses.fields(HostState))


class DumpError(ValueError):
    """Data that is no dump, or one written by a newer release."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was asked, of which hosts, under which policy, and what came of it."""

    hosts: tuple[HostState, ...]
    request: Request
    policy: Policy
    ranking: Ranking


def dump(hosts: Sequence[HostState] | Snapshot, request: Request, policy: Policy, ranking: Ranking) -> dict[str, Any]:
    """Return the decision as JSON data. The same decision gives the same data, in whatever order the hosts came."""
    rows = hosts.hosts if isinstance(hosts, Snapshot) else hosts
    return {
        "version": DUMP_VERSION,
        "hosts": [plain(host) for host in sorted(rows, key=lambda host: host.id)],
        "request": plain(request),
        "policy": {"name": policy.name, "weights": {name: policy.weight(name) for name in WEIGHER_NAMES}},
        "ranking": {
            "candidates": [plain(candidate) for candidate in ranking.candidates],
            "refusals": [plain(refusal) for refusal in ranking.refusals],
            "tally": [list(pair) for pair in ranking.tally],
            "reasons": [plain(reason) for reason in ranking.reasons],
        },
    }


def load(data: Mapping[str, Any]) -> Recording:
    """Read what `dump` wrote, after any trip through JSON text. Raises DumpError."""
    try:
        if data["version"] != DUMP_VERSION:
            raise DumpError(f"dump version {data['version']}; this release reads {DUMP_VERSION}")
        ranking = data["ranking"]
        return Recording(
            hosts=tuple(read_host(host) for host in data["hosts"]),
            request=read_request(data["request"]),
            policy=Policy(data["policy"]["name"], dict(data["policy"]["weights"])),
            ranking=Ranking(
                candidates=tuple(Candidate(**candidate) for candidate in ranking["candidates"]),
                refusals=tuple(Refusal(**{**item, "also": tuple(item["also"])}) for item in ranking["refusals"]),
                tally=tuple((name, hosts) for name, hosts in ranking["tally"]),
                reasons=tuple(Reason(**reason) for reason in ranking["reasons"]),
            ),
        )
    except (KeyError, TypeError) as error:
        raise DumpError(f"not a dump: {error!r}") from None


def replay(data: Mapping[str, Any], *, policy: Policy | None = None) -> Ranking:
    """Rank the dump's request on its hosts again, under its own policy or another. Raises DumpError.

    Under its own policy the result equals `load(data).ranking`, float for float.
    """
    recording = load(data)
    return rank(recording.hosts, recording.request, policy or recording.policy)


def plain(value: Any) -> Any:
    """Return a value of the scheduler as JSON data; equal values give equal data."""
    if dataclasses.is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(sorted(value.items()))
    return value


def read_host(data: Mapping[str, Any]) -> HostState:
    """Return the host that `plain` made the data of; what this release does not know is passed over.

    Raises KeyError, TypeError.
    """
    inventory = data["inventory"]
    return HostState(
        **{
            **{name: value for name, value in data.items() if name in _HOST_FIELDS},
            "inventory": Inventory(
                **{
                    **inventory,
                    "total": Resources(**inventory["total"]),
                    "reserved": Resources(**inventory["reserved"]),
                }
            ),
            "used": Resources(**data["used"]),
            "cells": tuple(_read_cell(cell) for cell in data.get("cells", ())),
            **{name: frozenset(data.get(name, ())) for name in _HOST_SETS},
        }
    )


def read_request(data: Mapping[str, Any]) -> Request:
    """Return the request of its data; what is left out is at its default. Raises KeyError, TypeError."""
    sets = {name: frozenset(data.get(name, ())) for name in _REQUEST_SETS}
    numa = data.get("numa")
    return Request(
        **{
            **data,
            **sets,
            "resources": Resources(**data["resources"]),
            "numa": None if numa is None else NumaAsk(**numa),
        }
    )


def _read_cell(data: Mapping[str, Any]) -> Cell:
    pages = tuple((size, free) for size, free in data["pages"])
    return Cell(**{**data, "cpus": tuple(data["cpus"]), "pages": pages})
