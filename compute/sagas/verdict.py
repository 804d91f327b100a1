"""What became of a migration, told from what both ends show: never from what the job said of its end.

The hypervisor's own answer is wrong in both directions (seen: it said "moved" eight times and "failed" four times when its
daemon was killed at the end, and each time the guest ran at the destination). The table is docs/migration.md's.
"""

from __future__ import annotations

from typing import Literal

from compute.wire import DomainLook

Verdict = Literal["going", "moved", "stayed", "resume", "recall", "ended", "wait", "unclear", "split"]

_OFF = frozenset({"absent", "stopped", "crashed", "suspended"})


def judge(source: DomainLook | None, destination: DomainLook | None) -> Verdict:
    """Return what to conclude from a fresh look at both ends; None stands for an end that cannot be asked.

    going: the job is at work, or about to end. moved: the guest is the destination's. stayed: it is the source's.
    resume: it stays, paused by a job that is over; the source has to set it going. recall: the same with a copy at the
    destination that was never let go: that one is taken away first, so that only one can ever be set going. ended: it
    runs nowhere, by its own doing or by a crash; what its tenant wished decides. wait: one end has to be heard first.
    unclear: a state between two others; look again. split: it runs twice by two looks taken one after the other, between
    which it may have gone over; what shows it again and again must not be, and nobody may guess which one to end.
    """
    here, there = _of(source), _of(destination)
    if here == there == "running":
        return "split"
    if there == "running":
        # What is left at the source, be it paused, a definition or a host that cannot be asked, is withdrawn later.
        return "moved"
    if source is not None and source.outgoing:
        return "going"
    if here == "running":
        return "stayed"  # with the destination unheard too: no job is there that could still take it away
    if source is None or destination is None:
        return "wait"
    if here == "paused":
        # Of two paused ones the source's is whole.
        return "recall" if there == "paused" else "resume"
    return "unclear" if there == "paused" else "ended"


def _of(look: DomainLook | None) -> str:
    if look is None:
        return "unheard"
    return "off" if look.power in _OFF else look.power
