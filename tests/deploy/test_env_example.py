"""`deploy/env.example` lists every variable that the code reads, and nothing that no code reads."""

from __future__ import annotations

import re

from deploy.steps.place import REPO

# Of tests and of single commands, not of an installation.
NOT_LISTED = {"CENOTE_LONG", "CENOTE_AS_OPERATOR"}


def read_by_code() -> set[str]:
    found: set[str] = set()
    for folder in ("cloud", "compute", "tenants", "deploy"):
        for file in (REPO / folder).rglob("*"):
            if "/images/" in str(file) or file.name == "env.example" or not file.is_file():
                continue
            if file.suffix == ".py" or (file.parent.name in ("deploy", "labhosts") and file.suffix == ""):
                found |= set(re.findall(r"\bCENOTE_[A-Z][A-Z_]*[A-Z]\b", file.read_text(errors="ignore")))
    node = (REPO / "compute" / "node" / "settings.py").read_text()
    found |= {f"CENOTE_NODE_{name}" for name in re.findall(r"""(?:text|number|one_of|cpus)\("([A-Z_]+)\"""", node)}
    return {name for name in found if not name.startswith(("CENOTE_TEST_", "CENOTE_BUILD_"))} - NOT_LISTED


def listed() -> list[str]:
    lines = (REPO / "deploy" / "env.example").read_text().splitlines()
    return [line.partition("=")[0] for line in lines if line and not line.startswith("#")]


def test_every_variable_is_listed_once_and_none_is_invented():
    names = listed()
    assert len(names) == len(set(names))
    assert read_by_code() - set(names) == set()
    assert set(names) - read_by_code() == set()
    assert "CENOTE_SECRET_KEY" in names  # the search itself finds something
