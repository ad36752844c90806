"""Rehearse an import into a scratch database.

A dry run writes each record and rolls it back. A read-only kit writes it to an empty database in memory instead.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Engine

from convokit.store.dialects import dialect_of
from convokit.store.engine import open_scratch_engine, translate_error
from convokit.store.fast_execute import fast_connection
from convokit.transfer.importer import Importer
from convokit.transfer.models import RecordResult
from convokit.transfer.restore import Restorer


class ScratchDatabase:
    """An empty SQLite database in memory with the tables of conversations. It is created when the first record needs it."""

    def __init__(self, database_id: UUID) -> None:
        self._database_id = database_id
        self._engine: Engine | None = None

    def rehearse(self, importer: Importer | Restorer) -> RecordResult:
        """Write the record that was read, and roll back. Raises: BadRecord; StoreError for rows that SQLite refuses."""
        if self._engine is None:
            self._engine = open_scratch_engine(self._database_id)
        dialect = dialect_of(self._engine)
        try:
            with self._engine.connect() as connection:  # leaving without a commit rolls back
                return importer.write_record(fast_connection(connection))
        except dialect.errors as error:
            raise translate_error(dialect, "the scratch database of a dry run", error) from None

    def close(self) -> None:
        """Drop the database."""
        if self._engine is not None:
            self._engine.dispose()
