"""The scheduler knows values and arithmetic: what it may import is a short list."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import compute.scheduler

ROOM = Path(compute.scheduler.__file__).parent
ALLOWED = {
    "__future__",
    "base64",
    "collections",
    "compute",
    "dataclasses",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "json",
    "itertools",
    "math",
    "numpy",
    "sys",
    "typing",
    "zlib",
}


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_scheduler_imports_no_clock_no_dice_no_input_and_output(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            assert module.split(".")[0] in ALLOWED, f"{path.name} imports {module}"
            if module.startswith("compute"):
                assert module.startswith(("compute.scheduler", "compute.wire")), f"{path.name} imports {module}"


def test_scheduler_loads_no_django() -> None:
    code = "import sys, compute.scheduler.explain, compute.scheduler.dump; sys.exit('django' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOM.parent.parent, check=True, timeout=60)
