"""Define what a database must provide to store and search conversations.

`Dialect` is everything but the search; `SearchDialect` is the search index. Both have one implementation for each database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Table
from sqlalchemy.engine import URL

from convokit.domain.search_periods import PeriodSpan
from convokit.domain.search_words import build_owner_keys, build_title_key
from convokit.errors import ConvokitError

INDEX_COLUMNS = ("seq", "role", "created_at", "words")
"""The columns of `IndexRow` in the table `search`."""
TITLE_SEQ, TITLE_ROLE = 0, "title"
"""Seq and role of the index row of a conversation's title. The seqs of messages begin with 1."""
MessageRef: TypeAlias = tuple[UUID, int]
"""A message: its conversation's id and its seq."""
SortKey: TypeAlias = tuple[Any, ...]
"""Position of an index row among all rows, the newest last."""


class IndexedText(Protocol):
    """A text that has a row in the search index: a message or a title."""

    seq: int
    role: str
    created_at: int


@dataclass(slots=True)
class IndexRow:
    """A row of the search index."""

    seq: int
    role: str
    created_at: int
    words: Any
    keys: str = ""
    """The keys as text, for a full-text index that is a table of its own."""


@dataclass(slots=True, repr=False)
class SearchFilter:
    """Conditions of a search. A row must have every one of `keys`.

    Times are microseconds since 1970, `until` not included.
    """

    keys: Sequence[str]
    conversation_id: UUID | None = None
    role: str | None = None
    subject: str | None = None
    since: int | None = None
    until: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    titles: bool = False
    """Whether titles are wanted instead of messages."""


def choose_owner_key(tenant: str, wanted: SearchFilter) -> str:
    """Return the key that all rows of a search have: that of the tenant's titles, of the conversation, or of the tenant."""
    if wanted.titles:
        return build_title_key(tenant)
    tenant_key, conversation_key = build_owner_keys(tenant, wanted.conversation_id or UUID(int=0))
    # One of the two: the few rows of a conversation need not be matched against all rows of its tenant.
    return conversation_key if wanted.conversation_id else tenant_key


@dataclass(frozen=True, slots=True)
class SortRange:
    """Bounds of the candidates to read: from `top` down to `bottom`, both included, and older than `below`."""

    top: SortKey | None = None
    bottom: SortKey | None = None
    below: SortKey | None = None


class SearchDialect(Protocol):
    """The search index of one database: how its rows are written, and how candidates are found in it."""

    rows: FromClause
    """The table `search`, with the columns that only this database has."""
    sort_columns: Sequence[ColumnElement[Any]]
    """The columns of `rows` that make a `SortKey`."""
    match_sort_columns: Sequence[ColumnElement[Any]]
    """The same sort key in a statement with `match`, from the columns that the index returns in order."""

    def build_row(self, row: IndexedText, keys: set[str], owner_keys: tuple[str, ...]) -> IndexRow:
        """Return the index row of a message with these keys of its words, of its tenant and of its conversation."""
        ...

    def insert_rows(self, connection: Connection, conversation_id: UUID, rows: Sequence[IndexRow]) -> None:
        """Insert index rows, at least one."""
        ...

    def remove_keys(self, connection: Connection, conversation_id: UUID, seqs: Sequence[int]) -> None:
        """Remove the keys of these messages from an index outside the table `search`, before the rows lose their words."""
        ...

    def optimize(self, connection: Connection) -> None:
        """Rewrite the index without the bytes of removed words."""
        ...

    def choose_spans(
        self, connection: Connection, tenant: str, wanted: SearchFilter, within: SortRange, limit: int
    ) -> Sequence[PeriodSpan]:
        """Return spans of time to search in turn before all times are searched. Empty if the index returns the newest first."""
        ...

    def match(self, tenant: str, wanted: SearchFilter, span: PeriodSpan | None) -> list[ColumnElement[bool]]:
        """Return the conditions that ask the index for the keys, and for the time `span`."""
        ...

    def match_tenant(self, tenant: str, wanted: SearchFilter) -> ColumnElement[bool]:
        """Return the condition on the conversation's tenant."""
        ...

    def match_metadata(self, name: str, value: Any) -> ColumnElement[bool]:
        """Return the condition that a conversation's metadata has this value, of the same JSON type: 1 is not true."""
        ...


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """Facts about an open database for `doctor`. `advice` is None if they are as expected."""

    found: str
    advice: str | None = None


class Dialect(Protocol):
    """Everything in which databases differ."""

    search: SearchDialect
    now_us_sql: str
    """The clock in microseconds since 1970, as SQL."""
    has_local_clock: bool
    """True if the database's clock is the clock of this machine, which may jump."""
    has_single_writer: bool
    """True if the database runs one writing transaction at a time. A process then queues its own."""
    has_pipelines: bool
    """True if several statements can be sent in one round trip to a server."""
    can_be_distributed: bool
    """True if an extension can distribute the tables over several servers."""
    code_point_collation: str
    """The collation that compares text by code points."""
    read_options: Mapping[str, Any]
    """Execution options that give a reading transaction one snapshot for all its statements."""
    facts_name: str
    errors: tuple[type[Exception], ...]
    """Errors of a transaction: SQLAlchemy's, and those of the driver that SQLAlchemy does not wrap."""

    def parse_url(self, database: str) -> URL:
        """Return the URL with the driver set.

        Raises: SettingsError if the URL names nothing that can persist; ArgumentError and ValueError as `make_url` does.
        """
        ...

    def describe_url(self, url: URL) -> str:
        """Return the database's name for people, without password and parameters."""
        ...

    def file_of_url(self, url: URL) -> str | None:
        """Return the path of the database's file as the URL has it; None on a server."""
        ...

    def file_of(self, connection: Connection) -> str | None:
        """Return the absolute path of the database's file; None on a server."""
        ...

    def check_url(self, url: URL) -> None:
        """Raise SettingsError if the driver is not installed, or does not know an option of the URL."""
        ...

    def open_engine(self, url: URL, *, create: bool, sync_commit: bool, read_only: bool) -> Engine:
        """Return an engine that is not connected yet. `create` allows a missing file to be created."""
        ...

    def is_writable(self, connection: Connection) -> bool:
        """Return whether this user can write the file, or whether the server accepts writes."""
        ...

    def is_write_refused(self, error: BaseException) -> bool:
        """Return whether the database refused a write because only reads are allowed."""
        ...

    def translate_driver_error(self, name: str, error: BaseException, *, is_connection_lost: bool) -> ConvokitError:
        """Return the ConvokitError for a failure; `name` describes the database."""
        ...

    def insert_or_ignore(self, table: Table[Any]) -> Any:
        """Return an INSERT that skips rows whose key exists."""
        ...

    def insert_or_update(self, table: Table[Any], *columns: str) -> Any:
        """Return an INSERT that sets `columns` of rows whose primary key exists."""
        ...

    def lock_migrations(self, connection: Connection) -> None:
        """Wait until no other process migrates, in a writing transaction."""
        ...

    def read_facts(self, connection: Connection) -> DatabaseFacts:
        """Read the facts that `doctor` shows under `facts_name`."""
        ...

    def read_replication(self, connection: Connection) -> Mapping[str, DatabaseFacts]:
        """Read what `doctor` shows about standbys and about what a failover may lose, by name. Empty without a server."""
        ...
