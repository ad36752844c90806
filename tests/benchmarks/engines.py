"""Where a benchmark's databases come from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.databases import Files, Postgres


@contextmanager
def makers(only: str | None = None) -> Iterator[dict[str, Callable[[], str]]]:
    """Yield what makes a migrated database, by its kind: SQLite files in a folder of their own, and a PostgreSQL."""
    with ExitStack() as stack:
        made: dict[str, Callable[[], str]] = {}
        if only != "postgresql":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convokit-bench-"))
            made["sqlite"] = Files(Path(folder)).migrated
        if only != "sqlite":
            server = Postgres(durable=True)
            stack.callback(server.close)
            made["postgresql"] = server.migrated
        yield made
