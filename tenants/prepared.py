"""Statements of the busiest paths, prepared by the server: it parses and plans them once for each connection.

What goes through Django's own cursors is text that PostgreSQL plans anew each time; that alone was a third of the CPU of
a placement. Parameters are typed by the server, so a cast belongs where their type does not follow from their place.
Errors are Django's, as with its cursors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.models.expressions import DatabaseDefault

# Fields whose values psycopg writes as Django would have it write them.
_PLAIN: Final = (models.UUIDField, models.ForeignKey, models.CharField, models.TextField, models.IntegerField)

Parameters = Mapping[str, Any] | Sequence[Any]
Rows = list[tuple[Any, ...]]
_M = TypeVar("_M", bound=models.Model)


def run(sql: str, parameters: Parameters) -> Rows:
    """Run one statement and return its rows."""
    return _execute(sql, parameters).fetchall()


def ask(sql: str, parameters: Parameters) -> Callable[[], Rows]:
    """Run one statement; what is returned gives its rows. Between others of `together` nothing waits until it is called."""
    return _execute(sql, parameters).fetchall


def ask_rows(model: type[_M], condition: str, parameters: Parameters) -> Callable[[], list[_M]]:
    """Ask for a model's rows by a condition in SQL, as `ask`. Every tenant's: whoever asks has judged, or filters."""
    sql, names = _select(model, condition)
    found = ask(sql, parameters)
    return lambda: [model.from_db(DEFAULT_DB_ALIAS, names, row) for row in found()]


def send(sql: str, parameters: Parameters) -> None:
    """Run one statement whose rows nobody wants. Between others of `together` nothing waits for it."""
    _execute(sql, parameters)


def insert(rows: Sequence[models.Model], **expressions: str) -> None:
    """Insert rows of one model as they are, keys included, without signals and without reading anything back.

    `expressions`: field -> SQL that the database works out in the place of the row's own value.
    """
    if not rows:
        return
    database = connections[DEFAULT_DB_ALIAS]
    names = tuple(name for name, value in rows[0].__dict__.items() if value.__class__ is not DatabaseDefault)
    sql, fields = _insert(type(rows[0]), names, tuple(expressions.items()))
    for row in rows:
        kept = row.__dict__
        _execute(
            sql,
            [
                kept[field.attname] if plain else field.get_db_prep_save(field.pre_save(row, True), database)
                for field, plain in fields
            ],
        )
        row._state.adding, row._state.db = False, database.alias


@contextmanager
def together() -> Iterator[None]:
    """Send the statements of the block without waiting for each one's answer: one round trip, unless rows are wanted inside.

    A statement that fails raises where rows are next asked for, or at the end of the block, and the transaction is lost
    by then. For statements that only a defect, a lock held too long or the end of the connection can make fail. What
    Django's own `update` and `save` say of the rows they met is not true in here.
    """
    database = connections[DEFAULT_DB_ALIAS]
    database.ensure_connection()
    with database.wrap_database_errors, database.connection.pipeline():
        yield


@lru_cache(maxsize=256)
def _select(model: type[models.Model], condition: str) -> tuple[str, list[str]]:
    fields = model._meta.concrete_fields
    columns = ", ".join(f'"{field.column}"' for field in fields)
    sql = " ".join(("SELECT", columns, "FROM", f'"{model._meta.db_table}"', "WHERE", condition))
    return sql, [field.attname for field in fields]


@lru_cache(maxsize=256)
def _insert(
    model: type[models.Model], attributes: tuple[str, ...], expressions: tuple[tuple[str, str], ...]
) -> tuple[str, list[tuple[models.Field[Any, Any], bool]]]:
    """Return the statement, and the fields whose values it takes, each with whether psycopg takes them as they are.

    Columns without an attribute are the database's to fill.
    """
    given = dict(expressions)
    fields = [field for field in model._meta.concrete_fields if field.attname in attributes]
    columns = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(given.get(field.name, "%s") for field in fields)
    sql = " ".join(("INSERT INTO", f'"{model._meta.db_table}"', f"({columns}) VALUES ({places})"))
    return sql, [(field, isinstance(field, _PLAIN)) for field in fields if field.name not in given]


class _Cursor(psycopg.Cursor[tuple[Any, ...]]):
    """Binds and prepares on the server, at the first use already."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        return super().execute(query, params, prepare=True, **options)

    def _convert_query(self, query: Any, params: Any = None) -> Any:
        # What Django's log of queries shows; psycopg sets it for statements that are not prepared alone.
        self._query = super()._convert_query(query, params)
        return self._query


def _execute(sql: str, parameters: Parameters) -> _Cursor:
    """Send a statement on Django's connection, with its checks and errors; by its cursor only where somebody listens there."""
    database = connections[DEFAULT_DB_ALIAS]
    database.close_if_health_check_failed()
    database.ensure_connection()
    database.validate_no_broken_transaction()
    if isinstance(parameters, Mapping):
        parameters = {name: _array(value) if value.__class__ is list else value for name, value in parameters.items()}
    else:
        parameters = [_array(value) if value.__class__ is list else value for value in parameters]
    cursor = _Cursor(database.connection)
    with database.wrap_database_errors:
        if database.execute_wrappers or database.queries_logged:
            wrapped = database._prepare_cursor(cursor)  # type: ignore[attr-defined]  # of `cursor()`, not in the stubs
            wrapped.execute(sql, parameters)
        else:
            cursor.execute(sql, parameters)
    return cursor


def _array(values: list[Any]) -> str:
    """Return a flat list as an array in PostgreSQL's notation; psycopg's own way takes ten times as long."""
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
