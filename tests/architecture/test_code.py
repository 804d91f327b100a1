"""Habits that no linter knows: each rule looks through the source, and each has a control that shows it finds a breach."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from cloud.celery import app
from compute.node.drivers import registry

REPO = Path(__file__).resolve().parents[2]
FOLDERS = ("cloud", "compute", "tenants", "deploy")
SQL = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|GRANT|LISTEN|NOTIFY|SET) ")
XML = re.compile(r"<[a-z][\w-]*[\s/>{]")
NOQA = re.compile(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* +\S+")
IGNORE = re.compile(r"# type: ignore\[[\w-]+(, [\w-]+)*\]")

# Where a text of SQL or XML is put together by hand all the same, and why that is safe.
FORMATTED = {
    ("compute/tasks/relay.py", "SQL"): "LISTEN takes no parameters; the channel is a constant of compute/outbox.py",
    (
        "deploy/steps/control.py",
        "SQL",
    ): "CREATE and ALTER ROLE take no parameters; the password is one that deploy/up made",
    ("deploy/labhosts/machine.py", "XML"): "a sentence for people, in which <state> stands for a directory",
    ("cloud/portal/templatetags/cenote.py", "XML"): "the body is one of the constants of this file",
}


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted((REPO / folder).rglob("*.py"))


def formatted(code: str) -> set[str]:
    """Return which of SQL and XML are written as f-strings."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr) and any(isinstance(part, ast.FormattedValue) for part in node.values):
            text = "".join(part.value if isinstance(part, ast.Constant) else "{" for part in node.values)  # type: ignore[misc]
            found |= {"SQL"} if SQL.match(text) else set()
            found |= {"XML"} if XML.search(text) else set()
    return found


def unexplained(code: str) -> list[str]:
    """Return lines that silence a checker without saying which rule, or a linter without saying why."""
    return [
        line.strip()
        for line in code.splitlines()
        if ("# noqa" in line and not NOQA.search(line)) or ("# type: ignore" in line and not IGNORE.search(line))
    ]


def waits_in_the_broker(code: str) -> set[str]:
    """Return what would make a message more than a doorbell: a time, a retry, a result, a chain; and hidden flow."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            found |= {word.arg for word in node.keywords if word.arg in ("eta", "countdown", "acks_late")}
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("apply_async", "delay"):
                found.add(node.func.attr)
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.module == "celery" and names & {"chord", "chain", "group", "signature"}:
                found.add("canvas")
            if (node.module or "").endswith(".signals") and (node.module or "").startswith("django"):
                found.add("signals")
    return {name for name in found if name}


def test_no_sql_and_no_xml_is_written_as_an_f_string() -> None:
    found = {(str(file.relative_to(REPO)), kind) for file in sources() for kind in formatted(file.read_text())}
    assert found == set(FORMATTED)


def test_whoever_silences_a_checker_says_which_rule_and_why() -> None:
    assert {str(file.relative_to(REPO)): lines for file in sources() if (lines := unexplained(file.read_text()))} == {}


def test_a_message_is_a_doorbell_and_flow_is_not_hidden() -> None:
    assert {
        str(file.relative_to(REPO)): found for file in sources() if (found := waits_in_the_broker(file.read_text()))
    } == {}


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (formatted, 'query = f"SELECT * FROM t WHERE name = {name}"'),
        (formatted, 'text = f"<domain><name>{name}</name></domain>"'),
        (unexplained, "x = 1  # noqa: S311"),
        (unexplained, "x = 1  # noqa"),
        (unexplained, "x = 1  # type: ignore"),
        (waits_in_the_broker, "task.apply_async(args=[1], countdown=5)"),
        (waits_in_the_broker, "from django.db.models.signals import post_save"),
    ],
)
def test_control_a_breach_is_found(rule, code: str) -> None:
    assert rule(code)


def called_in(code: str) -> set[str]:
    """Return what is called as `module.function(...)`: the modules' names."""
    return {
        node.func.value.id
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    }


def test_every_reconciler_is_called_by_beat() -> None:
    modules = {file.stem for file in (REPO / "compute" / "reconcilers").glob("*.py")} - {"__init__"}
    assert len(modules) > 3
    assert modules - called_in((REPO / "compute" / "tasks" / "periodic.py").read_text()) == set()


def test_every_doorbell_has_its_task_in_the_worker() -> None:
    """A message for a task that no worker has loaded is lost; the sweep would hide that, seconds later each time."""
    app.loader.import_default_modules()
    published = {
        node.value
        for node in ast.walk(ast.parse((REPO / "compute" / "tasks" / "relay.py").read_text()))
        if isinstance(node, ast.Constant) and str(node.value).startswith("compute.")
    }
    assert "compute.plan_turn" in published
    assert published - set(app.tasks) == set()


def test_every_driver_passes_the_contract() -> None:
    """A driver's test is called after it, and inherits the contract for VMs and for containers."""
    for name in registry.NAMES:
        inherits = [
            file.name
            for file in (REPO / "tests" / "drivers").glob(f"test_{name}*.py")
            for node in ast.parse(file.read_text()).body
            if isinstance(node, ast.ClassDef)
            and any(isinstance(base, ast.Name) and base.id == "DriverContract" for base in node.bases)
        ]
        assert len(inherits) > 1, name


def test_every_management_command_has_help() -> None:
    ours = {name: app for name, app in get_commands().items() if app in ("cloud.api", "compute", "tenants")}
    assert {name for name in ours if not load_command_class(ours[name], name).help} == set()
    assert {"audit", "openapi_write", "user_create"} <= set(ours)  # the search itself finds something


def test_migrations_have_a_name_and_a_number_of_their_own() -> None:
    for folder in (REPO / "cloud/api", REPO / "compute", REPO / "tenants"):
        names = sorted(file.stem for file in (folder / "migrations").glob("0*.py"))
        assert names, folder
        assert [name for name in names if "_auto_" in name or not re.fullmatch(r"\d{4}_[a-z][a-z0-9_]*", name)] == []
        assert len({name[:4] for name in names}) == len(names), folder
