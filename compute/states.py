"""Every state machine of the product as a plain table. `transitions.py` is the only writer of these columns.

A machine is a dict: state -> the states that it may go to. Named sets say what groups of states mean.
`docs/states.md` draws them; a test holds the drawing against these tables.
"""

from __future__ import annotations

from typing import Final

Machine = dict[str, frozenset[str]]


def _machine(**arrows: str) -> Machine:
    return {state: frozenset(targets.split()) for state, targets in arrows.items()}


# Instance lifecycle. `error` still holds its room; `failed` and `deleted` hold nothing.
INSTANCE: Final[Machine] = _machine(
    building="active error failed deleting",
    active="error deleting",
    error="active deleting",
    failed="deleting deleted",
    deleting="deleted error",
    deleted="",
)
INSTANCE_HOLDS_ROOM: Final = frozenset({"building", "active", "error", "deleting"})
INSTANCE_LIVE: Final = frozenset({"building", "active", "error", "failed", "deleting"})

# Operation. `stuck` means: what is seen fits no rule; nothing is guessed.
OPERATION: Final[Machine] = _machine(
    pending="running cancelled",
    running="succeeded unwinding stuck",
    unwinding="failed cancelled stuck",
    stuck="unwinding running",
    succeeded="",
    failed="",
    cancelled="",
)
OPERATION_OPEN: Final = frozenset({"pending", "running", "unwinding", "stuck"})
OPERATION_FINAL: Final = frozenset({"succeeded", "failed", "cancelled"})
OPERATION_DUE: Final = frozenset({"pending", "running", "unwinding"})

# HostCall: one order to one host.
HOST_CALL: Final[Machine] = _machine(
    waiting="taken answered superseded",
    taken="answered superseded waiting",
    answered="",
    superseded="",
)

# Host, the operator's side.
HOST_ADMIN: Final[Machine] = _machine(
    enrolling="enabled disabled removed",
    enabled="draining disabled",
    draining="drained enabled disabled",
    drained="enabled disabled removed",
    disabled="enabled draining removed",
    removed="",
)

# Host, the observer's side. Only an operator takes a host out of `fenced`.
HOST_OBSERVED: Final[Machine] = _machine(
    unknown="up",
    up="suspect",
    suspect="up down",
    down="up cleaning fenced",
    fenced="cleaning",
    cleaning="up down",
)

# Fence: an order to make sure that a host is off. No timeout leads to `proved`.
FENCE: Final[Machine] = _machine(
    asked="proved failed",
    proved="",
    failed="",
)

# Evacuation of one fenced host. `stopped`: the fence does not hold any more.
EVACUATION: Final[Machine] = _machine(
    running="finished stopped",
    finished="",
    stopped="",
)

# Migration: one guest on its way from one host to another. Both ends hold room until it has ended.
MIGRATION: Final[Machine] = _machine(
    claimed="preparing failed aborted",
    preparing="running failed aborted",
    running="completed failed aborted",
    completed="",
    failed="",
    aborted="",
)
MIGRATION_OPEN: Final = frozenset({"claimed", "preparing", "running"})

# Plan: moves of several guests. `stopped`: it cannot come to its end, and says what is in the way.
PLAN: Final[Machine] = _machine(
    proposed="running expired",
    running="paused stopped finished aborted",
    paused="running aborted",
    stopped="running aborted",
    finished="",
    aborted="",
    expired="",
)
PLAN_OPEN: Final = frozenset({"running", "paused", "stopped"})

# One guest of a plan. `blocked`: it cannot be moved as it stands; `skipped`: there was nothing left to do for it.
PLAN_STEP: Final[Machine] = _machine(
    waiting="running skipped failed blocked",
    running="done waiting failed skipped",
    failed="waiting skipped",
    blocked="waiting skipped",
    done="",
    skipped="",
)

# What a tenant may wish an instance's power to be, and what a host may report of its domain.
DESIRED_POWER: Final = frozenset({"running", "stopped", "paused", "suspended"})
DOMAIN_POWER: Final = frozenset({"running", "paused", "stopped", "crashed", "suspended", "absent"})
