"""What a fresh machine is told to install is all that the code needs."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest

from deploy.steps.place import REPO

OURS = {"cloud", "compute", "tenants", "deploy", "tests"}


def _pinned(name: str) -> set[str]:
    lines = (REPO / "deploy" / name).read_text().splitlines()
    return {_normal(line.split("==")[0]) for line in lines if "==" in line}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _imports(folder: str) -> dict[str, str]:
    """Return top-level module -> a file that imports it, without Python's own and ours."""
    found: dict[str, str] = {}
    for file in sorted((REPO / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], str(file.relative_to(REPO)))
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names and name not in OURS}


@pytest.mark.parametrize("folder", ["cloud", "compute", "tenants", "deploy"])
def test_every_import_of_the_product_is_pinned_for_the_product(folder: str) -> None:
    distributions, pinned = packages_distributions(), _pinned("requirements.txt")
    imports = _imports(folder)
    assert imports
    missing = {
        name: file
        for name, file in imports.items()
        if not {_normal(each) for each in distributions.get(name, [])} & pinned
    }
    assert missing == {}, "deploy/requirements.txt lacks what these files import"


def test_every_import_of_the_tests_is_pinned() -> None:
    distributions = packages_distributions()
    pinned = _pinned("requirements.txt") | _pinned("requirements-dev.txt")
    missing = {
        name: file
        for name, file in _imports("tests").items()
        if not {_normal(each) for each in distributions.get(name, [])} & pinned
    }
    assert missing == {}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_exact_versions_and_name_no_index(name: str) -> None:
    for line in (REPO / "deploy" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9_.\[\]-]+==[A-Za-z0-9.]+", line), line


def test_no_package_is_pinned_twice() -> None:
    assert not _pinned("requirements.txt") & _pinned("requirements-dev.txt")
