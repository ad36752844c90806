"""Execute constant statements directly on the database driver.

This avoids SQLAlchemy's work for each execution. A statement that is a constant of its module is compiled once for each engine,
together with the converters of its parameters and results. An execution is then a call of the driver's cursor. All other
statements go through SQLAlchemy: statements that are built when they are needed, statements with expanded lists, and all
statements while a listener or a log observes the engine. Measured CPU of reading a conversation by its key: on SQLite 6 us
instead of 17, of which the driver takes 3; on PostgreSQL 18 us instead of 48, of which the driver takes 16.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Executable, TextClause, Uuid
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import MultipleResultsFound, NoResultFound
from sqlalchemy.sql.compiler import SQLCompiler

_KEPT = 512
"""Compiled statements kept for each engine. convokit has about a hundred constants."""
Values = Mapping[str, Any]
_Key = tuple[Executable, tuple[str, ...]]
_Convert = Callable[[Any], Any]


def fast_connection(connection: Connection) -> Connection:
    """Wrap a connection for the functions of the store. Return it unchanged if somebody listens to its statements."""
    engine = connection.engine
    heard = engine.dispatch
    if engine.echo or heard.before_execute or heard.before_cursor_execute or heard.after_cursor_execute:
        return connection
    return cast("Connection", FastConnection(connection, _statements_of(engine)))


def plain_connection(connection: Connection) -> Connection:
    """Return SQLAlchemy's own connection, for libraries that check its type."""
    return connection._connection if isinstance(connection, FastConnection) else connection


class Statement:
    """A compiled statement, with converters for its parameters and results."""

    def __init__(self, compiled: SQLCompiler, dialect: Dialect) -> None:
        self.sql = str(compiled)
        assert compiled.positiontup is not None  # both dialects have positional parameters
        binds = [(name, compiled.binds[name]) for name in compiled.positiontup]
        self._binds = [
            (name, bind.required, bind.effective_value, _to_driver(bind.type, dialect)) for name, bind in binds
        ]
        columns = compiled._result_columns
        self._from_driver = [
            (place, convert)
            for place, column in enumerate(columns)
            if (convert := _from_driver(column.type, dialect)) is not None
        ]
        self._row = _row_class(tuple(column.keyname for column in columns)) if columns else None

    def parameters(self, values: Values) -> list[Any]:
        """Return the driver's values by position. Raises: KeyError if a value is missing."""
        found = []
        for name, required, default, convert in self._binds:
            value = values[name] if required else values.get(name, default)
            found.append(value if convert is None or value is None else convert(value))
        return found

    def rows(self, found: Sequence[Any]) -> list[Any]:
        """Convert the driver's rows."""
        if self._row is None:
            return []
        make = self._row._make
        if not self._from_driver:
            return [make(each) for each in found]
        rows = []
        for each in found:
            values = list(each)
            for place, convert in self._from_driver:
                if values[place] is not None:
                    values[place] = convert(values[place])
            rows.append(make(values))
        return rows

    @property
    def returns_rows(self) -> bool:
        return self._row is not None


class Rows:
    """The result of an execution: the part of SQLAlchemy's `CursorResult` that the store uses."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        return self._rows

    def fetchall(self) -> list[Any]:
        return self._rows

    def first(self) -> Any:
        return self._rows[0] if self._rows else None

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def one_or_none(self) -> Any:
        if len(self._rows) > 1:
            raise MultipleResultsFound("expected at most one row, found more")
        return self.first()

    def one(self) -> Any:
        if not self._rows:
            raise NoResultFound("expected one row, found none")
        return self.one_or_none()

    def scalar(self) -> Any:
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        row = self.one_or_none()
        return None if row is None else row[0]

    def scalars(self) -> Rows:
        return Rows([row[0] for row in self._rows], self.rowcount)

    def mappings(self) -> Rows:
        return Rows([row._mapping for row in self._rows], self.rowcount)

    def tuples(self) -> Rows:
        return self


class FastConnection:
    """A connection whose `execute` bypasses SQLAlchemy for constants. Every other attribute is the connection's own."""

    def __init__(self, connection: Connection, statements: _StatementCache) -> None:
        self._connection = connection
        self._statements = statements
        self.dialect = connection.dialect  # `dialect_of` reads it several times a turn, without `__getattr__`

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: Executable, parameters: Any = None, **more: Any) -> Any:
        """Execute a statement, as `Connection.execute` does."""
        several = isinstance(parameters, list)
        values: Sequence[Values] = parameters if several else [parameters or {}]
        compiled = self._statements.get(self._connection, statement, values[0]) if values and not more else None
        if compiled is None:
            return self._connection.execute(statement, parameters, **more)
        try:
            given = [compiled.parameters(each) for each in values]
        except KeyError:
            return self._connection.execute(statement, parameters)  # SQLAlchemy's error names the missing value
        cursor: Any = None
        try:
            cursor = self._connection.connection.cursor()
            if len(given) == 1:
                cursor.execute(compiled.sql, given[0])
            else:
                cursor.executemany(compiled.sql, given)
            found = cursor.fetchall() if compiled.returns_rows else ()
            changed = cursor.rowcount
        except Exception as error:
            self.raise_wrapped(error, compiled.sql, cursor)
        finally:
            if cursor is not None:
                cursor.close()
        return Rows(compiled.rows(found), changed)

    def compile_constant(self, statement: Executable, parameters: Any = None) -> tuple[Statement, list[list[Any]]]:
        """Return a constant, compiled, with the driver's values for each execution."""
        values: Sequence[Values] = parameters if isinstance(parameters, list) else [parameters or {}]
        compiled = self._statements.add_constant(self._connection, statement, values[0])
        return compiled, [compiled.parameters(each) for each in values]

    def raise_wrapped(self, error: Exception, sql: str, cursor: Any = None) -> NoReturn:
        """Raise a driver's error as SQLAlchemy does, which also invalidates a lost connection."""
        self._connection._handle_dbapi_exception(error, sql, None, cursor, None)
        raise error


class _StatementCache:
    """The compiled statements of one engine. A statement that is executed twice is taken for a constant and kept."""

    def __init__(self) -> None:
        self._statements: OrderedDict[_Key, Statement | None] = OrderedDict()
        self._seen: OrderedDict[_Key, None] = OrderedDict()

    def get(self, connection: Connection, statement: Executable, values: Values) -> Statement | None:
        """Return the compiled statement; None if SQLAlchemy has to execute it."""
        key = _build_cache_key(statement, values)
        try:
            return self._statements[key]
        except KeyError:
            pass
        if key not in self._seen:
            _keep(self._seen, key, None)
            return None
        return self._add(connection, key)

    def add_constant(self, connection: Connection, statement: Executable, values: Values) -> Statement:
        """Return the compiled statement, which is known to be a constant."""
        key = _build_cache_key(statement, values)
        compiled = self._statements[key] if key in self._statements else self._add(connection, key)
        assert compiled is not None, "a statement with a list of values is no constant"
        return compiled

    def _add(self, connection: Connection, key: _Key) -> Statement | None:
        compiled = _compile(key[0], key[1] or None, connection.dialect)
        _keep(self._statements, key, compiled)
        return compiled


def _build_cache_key(statement: Executable, values: Values) -> _Key:
    return statement, tuple(values) if getattr(statement, "is_insert", False) else ()


def _keep(cache: OrderedDict[_Key, Any], key: _Key, value: Any) -> None:
    cache[key] = value
    while len(cache) > _KEPT:
        cache.popitem(last=False)


_engines: WeakKeyDictionary[Dialect, _StatementCache] = WeakKeyDictionary()


def _statements_of(engine: Engine) -> _StatementCache:
    """Return the statements of an engine. Engines with other execution options share them: they share the dialect."""
    dialect = engine.dialect
    if dialect not in _engines:
        _engines[dialect] = _StatementCache()
    return _engines[dialect]


def _compile(statement: Executable, names: tuple[str, ...] | None, dialect: Dialect) -> Statement | None:
    if isinstance(statement, TextClause):  # does not say whether it returns rows
        return None
    compiled = cast("Any", statement).compile(dialect=dialect, column_keys=list(names) if names else None)
    if not isinstance(compiled, SQLCompiler) or compiled.post_compile_params or compiled.literal_execute_params:
        return None
    if any(bind.expanding for bind in compiled.binds.values()) or compiled.escaped_bind_names:
        return None
    return Statement(compiled, dialect)


def _to_driver(kind: Any, dialect: Dialect) -> _Convert | None:
    convert: _Convert | None = kind.dialect_impl(dialect).bind_processor(dialect)
    return convert


def _from_driver(kind: Any, dialect: Dialect) -> _Convert | None:
    convert: _Convert | None = kind.dialect_impl(dialect).result_processor(dialect, None)
    return _uuid if convert is not None and isinstance(kind, Uuid) and not dialect.supports_native_uuid else convert


@functools.lru_cache(maxsize=4096)
def _uuid(text: str) -> UUID:
    """Return the id of 32 digits. Cached, because the rows of a window repeat the ids of a few turns."""
    return UUID(text)


@functools.cache
def _row_class(names: tuple[str, ...]) -> Any:
    """Return a row class that gives these columns by position and by name."""
    fields: Any = namedtuple("Row", list(names), rename=True)  # type: ignore[misc]  # known at run time only
    return type(
        "Row", (fields,), {"__slots__": (), "_mapping": property(lambda row: dict(zip(names, row, strict=True)))}
    )
