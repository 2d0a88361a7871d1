"""Many rows in one go, past the statement builder: what ingest needs thousands of times a second.

SQLite runs a prepared statement a row, which costs it microseconds; PostgreSQL gets arrays to join with, and
new rows by binary COPY. Both fail with SQLAlchemy's errors, like every other statement.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, Connection, Float, Integer, LargeBinary, Table, Text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

Values = tuple[Any, ...]

# Rows that go to PostgreSQL in one statement's arrays, or to COPY in one buffer.
ROWS_PER_STATEMENT = 4_000
_COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_COPY_END = struct.pack(">h", -1)


def by_keys(connection: Connection) -> None:
    """Let PostgreSQL look every row up by its key until the transaction ends.

    A batch asks for some hundred rows by their keys. Of a table that has just grown the planner knows nothing
    yet, and would read all of it for them.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true), "
            "set_config('enable_seqscan', 'off', true)"
        )


def fetch(
    connection: Connection,
    table: Table,
    keys: Sequence[Column[Any]],
    wanted: Sequence[Values],
    columns: Sequence[Column[Any]],
    *,
    lock: bool = False,
) -> list[Values]:
    """Rows whose key columns hold one of many values.

    Args:
        connection: in a transaction.
        table: to read.
        keys: columns that an index begins with.
        wanted: what they may hold; ascending, where rows are locked.
        columns: to be read, as the driver has them (JSON is text on SQLite and parsed on PostgreSQL).
        lock: whether the rows are locked against other workers, in ascending order of their keys (SQLite has
            one writer anyway).
    """
    if not wanted:
        return []
    if connection.dialect.name == "sqlite":
        return _fetch_one_by_one(connection, table, keys, wanted, columns)
    names = ", ".join(f"t.{_quoted(column)}" for column in columns)
    on = " AND ".join(f"t.{_quoted(column)} = k.{_quoted(column)}" for column in keys)
    # Sorted by bytes, as Python sorts ASCII names: two workers that lock the same rows never wait in a ring.
    order = ", ".join(
        f't.{_quoted(column)} COLLATE "C"' if isinstance(column.type, Text) else f"t.{_quoted(column)}"
        for column in keys
    )
    locking = f" ORDER BY {order} FOR NO KEY UPDATE OF t" if lock else ""
    found: list[Values] = []
    for begin in range(0, len(wanted), ROWS_PER_STATEMENT):
        part = wanted[begin : begin + ROWS_PER_STATEMENT]
        statement = f"SELECT {names} FROM {_unnested(keys)} JOIN {table.name} t ON {on}{locking}"
        result = connection.exec_driver_sql(statement, tuple(_arrays(keys, part)))
        found += [tuple(row) for row in result]
    return found


def insert(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Values]) -> None:
    """Add rows that are not there yet.

    Raises:
        sqlalchemy.exc.IntegrityError: one is there.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _execute_many(connection, _insert_statement(table, columns), rows)
        return
    encode = _row_encoder([table.c[name] for name in columns])
    names = ", ".join(_quoted(table.c[name]) for name in columns)
    driver: Any = connection.connection.driver_connection
    command = f"COPY {table.name} ({names}) FROM STDIN (FORMAT BINARY)"
    with _driver_errors(connection), driver.cursor() as cursor, cursor.copy(command) as copy:
        copy.write(_COPY_SIGNATURE)
        for begin in range(0, len(rows), ROWS_PER_STATEMENT):
            copy.write(b"".join([encode(row) for row in rows[begin : begin + ROWS_PER_STATEMENT]]))
        copy.write(_COPY_END)


def insert_missing(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Values]
) -> None:
    """Add rows, leaving those whose primary key is there already."""
    keys = ", ".join(_quoted(column) for column in table.primary_key.columns)
    _insert_conflicting(connection, table, columns, rows, f"ON CONFLICT ({keys}) DO NOTHING")


def replace(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Values]) -> None:
    """Add rows, overwriting the named columns of those whose primary key is there already."""
    primary = [column.name for column in table.primary_key.columns]
    keys = ", ".join(_quoted(table.c[name]) for name in primary)
    sets = ", ".join(
        f"{_quoted(table.c[name])} = excluded.{_quoted(table.c[name])}"
        for name in columns
        if name not in primary
    )
    _insert_conflicting(connection, table, columns, rows, f"ON CONFLICT ({keys}) DO UPDATE SET {sets}")


def update(
    connection: Connection,
    table: Table,
    columns: Sequence[Column[Any]],
    rows: Sequence[Values],
    *,
    sets: str,
    where: str,
) -> None:
    """Change many rows by values of their own.

    Args:
        connection: in a write transaction.
        table: to change, named `t` in `where` and unqualified in `sets`' right sides.
        columns: what each value in `rows` is of; the values are named `k.` and the column's name.
        rows: values.
        sets: `column = expression, ...`.
        where: which row of `t` belongs to the values `k`.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        names = ", ".join(f"? AS {_quoted(column)}" for column in columns)
        statement = f"UPDATE {table.name} AS t SET {sets} FROM (SELECT {names}) AS k WHERE {where}"
        _execute_many(connection, statement, rows)
        return
    statement = f"UPDATE {table.name} AS t SET {sets} FROM {_unnested(columns)} WHERE {where}"
    for begin in range(0, len(rows), ROWS_PER_STATEMENT):
        part = rows[begin : begin + ROWS_PER_STATEMENT]
        connection.exec_driver_sql(statement, tuple(_arrays(columns, part)))


def delete(
    connection: Connection, table: Table, keys: Sequence[Column[Any]], wanted: Sequence[Values]
) -> None:
    """Remove the rows whose key columns hold one of many values."""
    if not wanted:
        return
    if connection.dialect.name == "sqlite":
        where = " AND ".join(f"{_quoted(column)} = ?" for column in keys)
        _execute_many(connection, f"DELETE FROM {table.name} WHERE {where}", wanted)
        return
    on = " AND ".join(f"t.{_quoted(column)} = k.{_quoted(column)}" for column in keys)
    statement = f"DELETE FROM {table.name} AS t USING {_unnested(keys)} WHERE {on}"
    for begin in range(0, len(wanted), ROWS_PER_STATEMENT):
        part = wanted[begin : begin + ROWS_PER_STATEMENT]
        connection.exec_driver_sql(statement, tuple(_arrays(keys, part)))


def _insert_conflicting(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Values], conflict: str
) -> None:
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        statement = f"{_insert_statement(table, columns)} {conflict}"
        _execute_many(connection, statement, rows)
        return
    chosen = [table.c[name] for name in columns]
    names = ", ".join(_quoted(column) for column in chosen)
    values = ", ".join(f"k.{_quoted(column)}{_from_array(column)}" for column in chosen)
    statement = f"INSERT INTO {table.name} ({names}) SELECT {values} FROM {_unnested(chosen)} {conflict}"
    for begin in range(0, len(rows), ROWS_PER_STATEMENT):
        part = rows[begin : begin + ROWS_PER_STATEMENT]
        connection.exec_driver_sql(statement, tuple(_arrays(chosen, part)))


def _quoted(column: Column[Any]) -> str:
    return f'"{column.name}"'


def _fetch_one_by_one(
    connection: Connection,
    table: Table,
    keys: Sequence[Column[Any]],
    wanted: Sequence[Values],
    columns: Sequence[Column[Any]],
) -> list[Values]:
    names = ", ".join(_quoted(column) for column in columns)
    where = " AND ".join(f"{_quoted(column)} = ?" for column in keys)
    found: list[Values] = []
    with _driver_errors(connection):
        cursor: Any = connection.connection.cursor()
        try:
            for key in wanted:
                found += cursor.execute(f"SELECT {names} FROM {table.name} WHERE {where}", key).fetchall()
        finally:
            cursor.close()
    return found


def _execute_many(connection: Connection, statement: str, rows: Sequence[Values]) -> None:
    with _driver_errors(connection):
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(statement, rows)
        finally:
            cursor.close()


@contextmanager
def _driver_errors(connection: Connection) -> Iterator[None]:
    """The driver's errors as SQLAlchemy's, as if it had run the statement itself."""
    dialect = connection.dialect
    driver = dialect.loaded_dbapi
    try:
        yield
    except driver.Error as error:
        lost = bool(dialect.is_disconnect(error, connection.connection, None))
        wrapped = DBAPIError.instance(
            "bulk statement",
            None,
            error,
            driver.Error,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=dialect,
        )
        if lost:
            connection.invalidate(error)
        raise wrapped from error


def _insert_statement(table: Table, columns: Sequence[str]) -> str:
    names = ", ".join(_quoted(table.c[name]) for name in columns)
    return f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(columns))})"


def _unnested(columns: Sequence[Column[Any]]) -> str:
    arrays = ", ".join(f"%s::{_array_type(column.type)}[]" for column in columns)
    return f"unnest({arrays}) AS k({', '.join(_quoted(column) for column in columns)})"


def _arrays(columns: Sequence[Column[Any]], rows: Sequence[Values]) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(len(columns))]


def _array_type(kind: TypeEngine[Any]) -> str:
    """What PostgreSQL calls a column's type; JSON travels as text."""
    for known, name in (
        (JSON, "text"),
        (Boolean, "boolean"),
        (BigInteger, "bigint"),
        (Integer, "integer"),
        (Float, "double precision"),
        (LargeBinary, "bytea"),
        (Text, "text"),
    ):
        if isinstance(kind, known):
            return name
    raise TypeError(f"no bulk statement knows columns of type {kind!r}")


def _from_array(column: Column[Any]) -> str:
    return "::json" if isinstance(column.type, JSON) else ""


def _row_encoder(columns: Sequence[Column[Any]]) -> Callable[[Values], bytes]:
    """Rows as binary COPY wants them: a count of fields, then each one's length and bytes."""
    fields = [_field_encoder(_array_type(column.type)) for column in columns]
    count = struct.pack(">h", len(columns))
    null = struct.pack(">i", -1)

    def encode(row: Values) -> bytes:
        return count + b"".join(
            [null if value is None else field(value) for field, value in zip(fields, row, strict=True)]
        )

    return encode


def _field_encoder(kind: str) -> Callable[[Any], bytes]:
    if kind == "text":
        return _text_field
    if kind == "bytea":
        return lambda value: len(value).to_bytes(4, "big") + value
    layout = struct.Struct(
        {"boolean": ">i?", "bigint": ">iq", "integer": ">ii", "double precision": ">id"}[kind]
    )
    size = layout.size - 4
    pack = layout.pack
    return lambda value: pack(size, value)


def _text_field(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(4, "big") + data
