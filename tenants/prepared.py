"""Statements of the busiest paths, prepared by the server: it parses and plans them once for each connection.

What goes through Django's own cursors is text that PostgreSQL plans anew each time; that alone was a third of the CPU of
a placement. Parameters are typed by the server, so a cast belongs where their type does not follow from their place.
Errors are Django's, as with its cursors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self

import psycopg
from django.db import connection, models
from django.db.models.expressions import DatabaseDefault

Parameters = Mapping[str, Any] | Sequence[Any]


def run(sql: str, parameters: Parameters) -> list[tuple[Any, ...]]:
    """Run one statement; return its rows, [] for one that returns none."""
    with _cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
        return rows


def insert(rows: Sequence[models.Model], **expressions: str) -> None:
    """Insert rows of one model as they are, keys included, without signals and without reading anything back.

    `expressions`: field -> SQL that the database works out in the place of the row's own value.
    """
    if not rows:
        return
    model = type(rows[0])
    written = [field.name for field in model._meta.concrete_fields if _has_value(rows[0], field)]
    sql, fields = _insert(model, tuple(written), tuple(expressions.items()))
    values = [
        [
            field.get_db_prep_save(field.pre_save(row, True), connection)
            for field in fields
            if field.name not in expressions
        ]
        for row in rows
    ]
    with _cursor() as cursor:
        if len(values) == 1:
            cursor.execute(sql, values[0])
        else:
            cursor.executemany(sql, values)
    for row in rows:
        row._state.adding, row._state.db = False, connection.alias


@contextmanager
def together() -> Iterator[None]:
    """Send the statements of the block without waiting for each one's answer; none of them may be asked for its rows.

    What fails is raised at the end of the block, and the transaction is lost by then. For inserts that only a defect or
    the end of the connection can make fail.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, connection.connection.pipeline():
        yield


def _has_value(row: models.Model, field: models.Field[Any, Any]) -> bool:
    return not isinstance(row.__dict__.get(field.attname), DatabaseDefault)


@lru_cache(maxsize=256)
def _insert(
    model: type[models.Model], names: tuple[str, ...], expressions: tuple[tuple[str, str], ...]
) -> tuple[str, list[models.Field[Any, Any]]]:
    fields = [field for field in model._meta.concrete_fields if field.name in names]
    given = dict(expressions)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(given.get(field.name, "%s") for field in fields)
    sql = " ".join(("INSERT INTO", f'"{model._meta.db_table}"', f"({columns}) VALUES ({places})"))
    return sql, fields


class _Cursor(psycopg.Cursor[tuple[Any, ...]]):
    """Binds and prepares on the server, at the first use already."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        return super().execute(query, params, prepare=True, **options)

    def _convert_query(self, query: Any, params: Any = None) -> Any:
        # What Django's log of queries shows; psycopg sets it for statements that are not prepared alone.
        self._query = super()._convert_query(query, params)
        return self._query


@contextmanager
def _cursor() -> Iterator[Any]:
    """A cursor on Django's connection, with its checks, errors, wrappers and log of queries."""
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    bare = _Cursor(connection.connection)
    wrapped = connection._prepare_cursor(bare)  # type: ignore[attr-defined]  # what `connection.cursor()` does, not in the stubs
    with connection.wrap_database_errors, wrapped as cursor:
        yield cursor
