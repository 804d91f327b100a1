"""Rankings in sentences. `tenant_*` never names a host; `operator_*` says everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from compute.scheduler.model import Candidate, Ranking, Reason, Refusal
from compute.scheduler.remedies import Change, Remedy, apply, how_many, remedies

__all__ = [
    "Change",
    "Remedy",
    "apply",
    "choice",
    "how_many",
    "operator_summary",
    "refusal_sentence",
    "remedies",
    "tenant_summary",
]

_SHOWN: Final = 5

# filter -> (one host, several hosts); states are told by their own name
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "pool": ("is in another pool", "are in another pool"),
    "target_host": ("is not the host asked for", "are not the host asked for"),
    "forbidden": ("is ruled out by the request", "are ruled out by the request"),
    "virt_mode": ("cannot run this kind of guest", "cannot run this kind of guest"),
    "cpu_model": ("does not offer the CPU model asked for", "do not offer the CPU model asked for"),
    "cpu_flags": ("lacks CPU flags asked for", "lack CPU flags asked for"),
    "traits": ("has not the traits asked for", "have not the traits asked for"),
    "anti_affinity": ("already has a member of the group", "already have a member of the group"),
    "network": ("does not reach the network", "do not reach the network"),
    "storage": ("does not reach the storage", "do not reach the storage"),
    "affinity": ("has no member of the group", "have no member of the group"),
    "failure_domain": (
        "is in a failure domain with enough members of the group",
        "are in failure domains with enough members of the group",
    ),
    "capacity_vcpus": ("lacks vCPU", "lack vCPU"),
    "capacity_memory": ("lacks memory", "lack memory"),
    "dedicated_cpus": ("lacks CPUs to give away", "lack CPUs to give away"),
    "huge_pages": ("lacks huge pages", "lack huge pages"),
    "numa_memory": ("lacks memory in a NUMA cell", "lack memory in a NUMA cell"),
    "numa_cells": ("lacks NUMA cells", "lack NUMA cells"),
    "host_loss": (
        "has to keep its room for the loss of a host",
        "have to keep their room for the loss of a host",
    ),
    "capacity_disk": ("lacks disk", "lack disk"),
}
# filters whose `seen` says more than their words
_SEEN: Final = frozenset({"virt_mode", "cpu_model", "cpu_flags", "traits", "network", "storage", "failure_domain"})
_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "enrolling": ("is not enrolled yet", "are not enrolled yet"),
    "unknown": ("has not reported yet", "have not reported yet"),
    "suspect": ("has stopped answering", "have stopped answering"),
    "cleaning": ("is being cleaned", "are being cleaned"),
}


def tenant_summary(ranking: Ranking) -> tuple[str, ...]:
    """Say in one sentence how many hosts can and cannot take the request, and why not. Names no host."""
    return (_counted(ranking),)


def operator_summary(ranking: Ranking) -> tuple[str, ...]:
    """Say how the choice fell, or which hosts refused: the counts first, then names and numbers of the first few."""
    sentences = [_counted(ranking)]
    if ranking.candidates:
        sentences.append(choice(ranking.candidates))
    else:
        closest = sorted(ranking.refusals, key=_distance)
        sentences.extend(refusal_sentence(refusal) for refusal in closest[:_SHOWN])
        if len(closest) > _SHOWN:
            sentences.append(f"{len(closest) - _SHOWN} more.")
    return tuple(sentences)


def refusal_sentence(refusal: Refusal) -> str:
    """Say with numbers why one host cannot take the request: `lab-2 lacks memory: 1024 MiB asked, 512 MiB free.`"""
    text = f"{refusal.host_name or refusal.host_id} {_reason_words(refusal.filter, refusal.seen, hosts=1)}"
    if refusal.asked is not None and refusal.free is not None:
        text += f": {refusal.asked} {refusal.unit} asked, {max(0, refusal.free)} {refusal.unit} free"
    elif refusal.filter in _SEEN and refusal.seen:
        text += f": {refusal.seen}"
    if refusal.also:
        text += f"; refused as well by {', '.join(refusal.also)}"
    return text + "."


def _counted(ranking: Ranking) -> str:
    fit, refused = len(ranking.candidates), len(ranking.refusals)
    hosts = fit + refused
    if not hosts:
        return "There are no hosts."
    parts = [f"{fit} can take it"] if fit else []
    parts.extend(_reason(reason) for reason in ranking.reasons)
    return f"{hosts} host{'s' if hosts != 1 else ''}: {', '.join(parts)}."


def _reason(reason: Reason) -> str:
    text = f"{reason.hosts} {_reason_words(reason.filter, reason.seen, hosts=reason.hosts)}"
    if reason.asked is not None and reason.free is not None:
        text += f" (largest room {max(0, reason.free)} {reason.unit}, {reason.asked} asked)"
    return text


def _reason_words(filter_name: str, seen: str, *, hosts: int) -> str:
    of_state = _STATES.get(seen, (f"is {seen}", f"are {seen}"))
    words = _WORDS.get(filter_name, of_state)  # the state filters have no words of their own
    return words[0] if hosts == 1 else words[1]


def _distance(refusal: Refusal) -> tuple[int, float, str]:
    """Closest to fitting first: fewest filters in the way, then the smallest part missing."""
    missing = -(refusal.margin or 0) / (refusal.asked or 1)
    return len(refusal.also), missing, refusal.host_id


def choice(candidates: Sequence[Candidate]) -> str:
    """Say what put the best candidate before the next, or that only its id did. Names hosts."""
    best = candidates[0]
    text = f"{best.host_name or best.host_id} is best with {best.score:.3f} ({_points(best)})"
    if len(candidates) == 1:
        return f"{text}; no other host can take it."
    second = candidates[1]
    name = second.host_name or second.host_id
    if second.score == best.score:
        return f"{text}; {name} is as good, and comes after it by id."
    gaps = [
        f"{weigher} {points - second.contributions[weigher]:+.3f}"
        for weigher, points in best.contributions.items()
        if points != second.contributions[weigher]
    ]
    return f"{text}; next is {name} with {second.score:.3f}: {', '.join(gaps)}."


def _points(candidate: Candidate) -> str:
    points = {weigher: value for weigher, value in candidate.contributions.items() if value != 0.0}
    return ", ".join(f"{weigher} {value:.3f}" for weigher, value in points.items()) or "nothing speaks for it"
