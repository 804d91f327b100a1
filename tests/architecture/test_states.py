"""State machines: drawn as they are written, every state reachable, written by one module."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from compute import states, transitions

REPO = Path(__file__).resolve().parents[2]
MACHINES = {
    "Instance": (states.INSTANCE, "building"),
    "Operation": (states.OPERATION, "pending"),
    "Host call": (states.HOST_CALL, "waiting"),
    "Migration": (states.MIGRATION, "claimed"),
    "Fence": (states.FENCE, "asked"),
    "Evacuation": (states.EVACUATION, "running"),
    "Plan": (states.PLAN, "proposed"),
    "Step of a plan": (states.PLAN_STEP, "waiting"),
    "Host, the operator's side": (states.HOST_ADMIN, "enrolling"),
    "Host, the observer's side": (states.HOST_OBSERVED, "unknown"),
}
# Who may set these columns but transitions.py, and why.
ALLOWED = {
    "compute/services/nodes.py": "leases waiting calls in one UPDATE under SKIP LOCKED: waiting -> taken, many rows at once",
    "compute/sagas/engine.py": "puts the row in memory back after a savepoint; writes nothing",
    "tenants/services/tenants.py": "the tenants' own state column is not one of these machines",
}


def _drawn(title: str) -> set[tuple[str, str]]:
    text = (REPO / "docs" / "states.md").read_text()
    section = text[text.index(f"## {title}\n") :]
    diagram = section[section.index("```mermaid") : section.index("```", section.index("```mermaid") + 3)]
    return set(re.findall(r"(\w+) --> (\w+)", diagram))


@pytest.mark.parametrize("title", MACHINES)
def test_the_drawing_is_the_table(title: str) -> None:
    machine, _ = MACHINES[title]
    assert _drawn(title) == {(state, target) for state, targets in machine.items() for target in targets}


@pytest.mark.parametrize("title", MACHINES)
def test_every_state_is_reachable_and_known(title: str) -> None:
    machine, first = MACHINES[title]
    reached, frontier = {first}, {first}
    while frontier:
        frontier = {target for state in frontier for target in machine[state]} - reached
        reached |= frontier
    assert reached == set(machine)
    assert {target for targets in machine.values() for target in targets} <= set(machine)


def test_transitions_knows_every_machine() -> None:
    assert {id(machine) for machine in transitions._MACHINES.values()} == {
        id(machine) for machine, _ in MACHINES.values()
    }


def _writes_state(file: Path) -> bool:
    columns = {"state", "admin_state", "observed_state"}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr in columns:
                    return True
        is_update = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update"
        if is_update and {keyword.arg for keyword in node.keywords} & columns:
            return True
    return False


def test_only_transitions_writes_state_columns() -> None:
    writers = {
        str(file.relative_to(REPO))
        for folder in ("compute", "tenants", "cloud")
        for file in (REPO / folder).rglob("*.py")
        if "migrations" not in file.parts and "node" not in file.parts and _writes_state(file)
    }
    assert writers - {"compute/transitions.py"} == set(ALLOWED)
