"""What the documentation names has to exist: files, functions, classes, methods, constants, links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from compute.selectors.invariants import CHECKS

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [REPO / "README.md", REPO / "deploy" / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").rglob("*.md")]
)
REFERENCE = re.compile(r"`((?:cloud|compute|tenants|deploy|tests)/[\w./-]+\.py):([A-Za-z_][\w.]*)`")
FILE = re.compile(r"`((?:cloud|compute|tenants|deploy|tests)/[\w./-]+\.(?:py|md|sh|yaml|txt|toml))`")
LINK = re.compile(r"\]\(([^)#:]+)\)")


def names_in(file: Path) -> set[str]:
    """Return the module's own names: functions, classes, Class.method, constants."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}.{inner.name}")
                for target in inner.targets if isinstance(inner, ast.Assign) else []:
                    found |= {f"{node.name}.{target.id}"} if isinstance(target, ast.Name) else set()
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def faults_of(text: str, folder: Path) -> list[str]:
    """Return what a page names that is not there."""
    faults = []
    for path, name in REFERENCE.findall(text):
        if not (REPO / path).is_file():
            faults.append(f"no file {path}")
        elif name not in names_in(REPO / path):
            faults.append(f"no {name} in {path}")
    faults += [f"no file {path}" for path in FILE.findall(text) if not (REPO / path).is_file()]
    faults += [f"no target {link}" for link in LINK.findall(text) if not (folder / link.strip()).exists()]
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_everything_a_page_names_exists(page: Path) -> None:
    assert faults_of(page.read_text(), page.parent) == []


def test_the_invariants_in_the_page_are_those_of_the_audit() -> None:
    rows = re.findall(r"^\| (I\d+) \|", (REPO / "docs" / "reliability.md").read_text(), re.MULTILINE)
    assert rows == list(dict.fromkeys(check.invariant for check in CHECKS))


def test_the_changelog_names_every_fragment() -> None:
    named = set(re.findall(r"docs/changes/([\w-]+\.md)", (REPO / "CHANGELOG.md").read_text()))
    assert named == {file.name for file in (REPO / "docs" / "changes").glob("*.md")}


def test_decisions_are_numbered_and_say_context_decision_and_consequences() -> None:
    files = sorted((REPO / "docs" / "adr").glob("*.md"))
    assert [file.name[:4] for file in files] == [f"{number:04}" for number in range(1, len(files) + 1)]
    for file in files:
        text = file.read_text()
        assert text.startswith(f"# {file.name[:4]}. ")
        places = [text.find(f"**{part}.**") for part in ("Context", "Decision", "Consequences")]
        assert -1 < places[0] < places[1] < places[2], file.name


def test_the_road_of_a_create_names_many_places() -> None:
    assert len(REFERENCE.findall((REPO / "docs" / "architecture.md").read_text())) > 40


@pytest.mark.parametrize(
    "text",
    [
        "`compute/outbox.py:no_such_name`",
        "`compute/no_such_file.py:submit`",
        "`compute/no_such.py`",
        "[x](no/such/page.md)",
    ],
)
def test_control_a_wrong_name_is_found(text: str) -> None:
    assert faults_of(text, REPO)
