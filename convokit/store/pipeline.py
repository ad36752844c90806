"""Send several statements of a transaction to the database together.

PostgreSQL answers them in one round trip (psycopg's pipeline mode). SQLite runs in our own process and executes them one by
one. So does a connection whose statements somebody observes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Connection, Executable

from convokit.store.dialects import dialect_of
from convokit.store.fast_execute import FastConnection, Rows, Statement


@contextmanager
def pipeline(connection: Connection) -> Iterator[Connection]:
    """Yield a connection that collects the statements of the block and sends them at its end, in their order.

    A result has rows and a row count after the block, not in it. The statements are constants, without lists of values.
    Raises: what the first failing statement raises, at the end of the block.
    """
    if not isinstance(connection, FastConnection) or not dialect_of(connection).has_pipelines:
        yield connection
        return
    sender = _Sender(connection)
    yield cast("Connection", sender)
    sender.send()


class _Queued(Rows):
    """A statement that waits to be sent, and later its result. Reading the result earlier raises AttributeError."""

    def __init__(self, compiled: Statement, values: list[list[Any]]) -> None:
        self.compiled, self.values = compiled, values

    def fill(self, rows: Sequence[Any], rowcount: int) -> None:
        """Set the result."""
        self._rows, self.rowcount = self.compiled.rows(rows), rowcount


class _Sender:
    """Collects statements. Sends them on psycopg's own cursors, because SQLAlchemy's lose the results of a pipeline."""

    def __init__(self, connection: FastConnection) -> None:
        self._connection = connection
        self._queue: list[_Queued] = []
        self.dialect = connection.dialect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: Executable, parameters: Any = None) -> Rows:
        """Queue a statement."""
        queued = _Queued(*self._connection.compile_constant(statement, parameters))
        self._queue.append(queued)
        return queued

    def send(self) -> None:
        """Send the statements and set their results."""
        if not self._queue:
            return
        try:
            _send(self._connection.connection.driver_connection, self._queue)
        except Exception as error:
            # The driver does not say which statement failed.
            together = "; ".join(each.compiled.sql for each in self._queue)
            self._connection.raise_wrapped(_find_cause(error), together)


def _send(driver: Any, queue: Sequence[_Queued]) -> None:
    cursors = [driver.cursor() for _ in queue]
    failures: list[Exception] = []
    try:
        with driver.pipeline():
            try:
                for each, cursor in zip(queue, cursors, strict=True):
                    if len(each.values) == 1:
                        cursor.execute(each.compiled.sql, each.values[0])
                    else:
                        cursor.executemany(each.compiled.sql, each.values)
            except Exception as error:  # of an earlier statement; a block that raises makes psycopg log what follows
                failures.append(error)
    except Exception as error:
        failures.append(error)
    if failures:
        raise failures[0]
    for each, cursor in zip(queue, cursors, strict=True):
        each.fill(cursor.fetchall() if each.compiled.returns_rows else (), cursor.rowcount)


def _find_cause(error: Exception) -> Exception:
    """Return the failure of a statement instead of the one of the statements behind it, which the server has skipped."""
    from psycopg.errors import PipelineAborted  # noqa: PLC0415  # an extra: most SQLite users never install it

    while isinstance(error, PipelineAborted) and isinstance(error.__context__, Exception):
        error = error.__context__
    return error
