"""The tables, as typed SQLAlchemy Core; their indexes are in `layout`. The migrations make them; a test holds the two equal.

Every child table's key leads with `conversation_id`, and no unique index or foreign key crosses conversations: that is what
lets the same tables be distributed by conversation. Order is `seq`, never time; times are microseconds since 1970 UTC and
only for people, except `lease_until`, which is the database's own clock. JSON is text that convokit serialises itself: native
JSON types reorder keys, lose large integers and refuse NUL escapes, each on another backend.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Named,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    TypedColumns,
    Uuid,
)

PREFIX = "convokit_"
VERSION_TABLE = "convokit_alembic_version"
REVISION = "0001"
"""The newest migration this code knows, and needs."""
GENERATION = 1
"""What `convokit_schema.oldest_code` is compared with: raised by a release whose older code a migration must shut out."""

metadata = MetaData()


class _OfConversation(TypedColumns):
    conversation_id = Column(Uuid, ForeignKey("convokit_conversation.id", ondelete="CASCADE"), nullable=False)


class SchemaColumns(TypedColumns):
    only = Column(Integer, primary_key=True, autoincrement=False)
    """Always 1: this table has one row."""
    oldest_code: Named[int]
    database_id = Column(Uuid, nullable=False)
    """Drawn once per database; conversation ids made from keys are derived from it."""


class ConversationColumns(TypedColumns):
    id = Column(Uuid, primary_key=True)
    tenant = Column(Text, nullable=False)
    key = Column(Text)
    subject = Column(Text)
    title = Column(Text)
    metadata = Column(Text)
    settings = Column(Text)
    """Only what was set on this chat: the kit's own values are never copied here."""
    head_seq = Column(Integer)
    """The last message of the main branch (number 0); None while there is none."""
    last_seq = Column(Integer, nullable=False)
    last_entry = Column(Integer, nullable=False)
    """Numbers the chain, and is the version that writers compare and swap."""
    chain_hash = Column(LargeBinary, nullable=False)
    created_at = Column(BigInteger, nullable=False)
    updated_at = Column(BigInteger, nullable=False)
    archived_at = Column(BigInteger)
    pins = Column(Text)
    """JSON array of seqs: messages that are sent also from before the window."""


class BranchColumns(_OfConversation):
    number = Column(Integer, nullable=False)
    name = Column(Text)
    head_seq = Column(Integer)
    created_at = Column(BigInteger, nullable=False)


class MessageColumns(_OfConversation):
    seq = Column(Integer, nullable=False)
    parent_seq = Column(Integer)
    run_start_seq = Column(Integer, nullable=False)
    """The lowest seq from which the path to this message has no gap: a window is a few range scans, not a walk."""
    turn_id = Column(Uuid)
    role = Column(Text, nullable=False)
    content = Column(Text)
    parts = Column(Text)
    """JSON array of content parts when the content is not plain text; binaries are references into `blob`."""
    tool_calls = Column(Text)
    tool_call_id = Column(Text)
    name = Column(Text)
    refusal = Column(Text)
    extra = Column(Text)
    """JSON: unknown vendor keys and the provider that sent them."""
    status = Column(Text, nullable=False)
    tokens = Column(Integer, nullable=False)
    counter = Column(Text, nullable=False)
    path_tokens = Column(BigInteger, nullable=False)
    """Tokens of the path up to and with this message: selects rows, and is never changed by a redaction."""
    window_from_seq = Column(Integer)
    """On replies: where the window that made it began."""
    window_rule = Column(BigInteger)
    """On replies: a checksum of model, counter and step; the next window starts no earlier while it stays the same."""
    salt = Column(LargeBinary)
    created_at = Column(BigInteger, nullable=False)


class TurnColumns(_OfConversation):
    id = Column(Uuid, nullable=False)
    branch = Column(Integer, nullable=False)
    question_seq = Column(Integer, nullable=False)
    after_seq = Column(Integer)
    """For another reply to a question that was there already: the last message when the turn began. Its own lie behind it."""
    after_entry = Column(Integer)
    """And the chain's last entry then, which orders such turns; both None for the turn that asked its question."""
    reply_seq = Column(Integer)
    idempotency_hash = Column(LargeBinary)
    fingerprint = Column(LargeBinary)
    fingerprint_salt = Column(LargeBinary)
    state = Column(Text, nullable=False)
    claim = Column(Integer)
    """The branch's number while the turn is open, else None: one open turn per branch."""
    epoch = Column(Integer, nullable=False)
    """Raised by every takeover: a worker whose epoch is old may write nothing any more."""
    owner = Column(Text)
    lease_until = Column(BigInteger)
    error = Column(Text)
    started_at = Column(BigInteger, nullable=False)
    first_token_at = Column(BigInteger)
    ended_at = Column(BigInteger)


class ChunkColumns(_OfConversation):
    turn_id = Column(Uuid, nullable=False)
    completion = Column(Integer, nullable=False)
    number = Column(Integer, nullable=False)
    text = Column(Text, nullable=False)


class CompletionColumns(_OfConversation):
    turn_id = Column(Uuid, nullable=False)
    number = Column(Integer, nullable=False)
    state = Column(Text, nullable=False)
    manifest = Column(Text, nullable=False)
    """JSON: what the request was made of, by reference."""
    body_salt = Column(LargeBinary)
    body_digest = Column(LargeBinary, nullable=False)
    requested_model = Column(Text, nullable=False)
    provider = Column(Text)
    served_model = Column(Text)
    response_id = Column(Text)
    request_id = Column(Text)
    finish_reason = Column(Text)
    prompt_tokens = Column(Integer)
    completion_tokens = Column(Integer)
    cached_tokens = Column(Integer)
    cache_write_tokens = Column(Integer)
    reasoning_tokens = Column(Integer)
    usage_source = Column(Text)
    service_tier = Column(Text)
    cost_nanousd = Column(BigInteger)
    """What the server said the call cost, in billionths of a US dollar: beats every price list."""
    details = Column(Text)
    """JSON: what the server said beyond these columns."""
    error = Column(Text)
    salt = Column(LargeBinary)
    started_at = Column(BigInteger, nullable=False)
    first_byte_at = Column(BigInteger)
    ended_at = Column(BigInteger)


class ToolCallColumns(_OfConversation):
    turn_id = Column(Uuid, nullable=False)
    message_seq = Column(Integer, nullable=False)
    position = Column(Integer, nullable=False)
    call_id = Column(Text, nullable=False)
    name = Column(Text, nullable=False)
    state = Column(Text, nullable=False)
    result_seq = Column(Integer)
    error = Column(Text)
    started_at = Column(BigInteger)
    ended_at = Column(BigInteger)


class EntryColumns(_OfConversation):
    number = Column(Integer, nullable=False)
    kind = Column(Text, nullable=False)
    ref = Column(Text, nullable=False)
    commitment = Column(LargeBinary, nullable=False)
    hash = Column(LargeBinary, nullable=False)


class PromptColumns(TypedColumns):
    tenant = Column(Text, nullable=False)
    digest = Column(LargeBinary, nullable=False)
    body = Column(Text, nullable=False)


class BlobColumns(_OfConversation):
    digest = Column(LargeBinary, nullable=False)
    media_type = Column(Text, nullable=False)
    data = Column(LargeBinary, nullable=False)


class SummaryColumns(_OfConversation):
    number = Column(Integer, nullable=False)
    from_seq = Column(Integer, nullable=False)
    to_seq = Column(Integer, nullable=False)
    message_seq = Column(Integer, nullable=False)
    created_at = Column(BigInteger, nullable=False)


class SearchColumns(_OfConversation):
    seq = Column(Integer, nullable=False)
    role = Column(Text, nullable=False)
    created_at = Column(BigInteger, nullable=False)
    words: Named[Any] = Column(ARRAY(SmallInteger).with_variant(Integer, "sqlite"), nullable=True)
    """PostgreSQL: 16 bits of each key that finds the message. SQLite: a checksum of them. Null once the words are forgotten."""


class RemovalColumns(_OfConversation):
    number = Column(Integer, nullable=False)
    """The entry, of kind redaction or erasure, that commits to this row."""
    ref = Column(Text, nullable=False)
    """What was removed: `message:<seq>`, `completion:<turn>:<number>`, or `*` for everything up to here."""
    author = Column(Text)
    """Who removed it, as the caller said."""
    reason = Column(Text)
    salt = Column(LargeBinary, nullable=False)
    created_at = Column(BigInteger, nullable=False)


def _key(table: str, *columns: str) -> PrimaryKeyConstraint:
    return PrimaryKeyConstraint(*columns, name=f"{PREFIX}{table}_pk")


schema_ = Table("convokit_schema", metadata, SchemaColumns)

conversation = Table("convokit_conversation", metadata, ConversationColumns)
branch = Table("convokit_branch", metadata, BranchColumns, _key("branch", "conversation_id", "number"))
message = Table("convokit_message", metadata, MessageColumns, _key("message", "conversation_id", "seq"))
turn = Table("convokit_turn", metadata, TurnColumns, _key("turn", "conversation_id", "id"))
chunk = Table(
    "convokit_chunk", metadata, ChunkColumns, _key("chunk", "conversation_id", "turn_id", "completion", "number")
)
completion = Table(
    "convokit_completion", metadata, CompletionColumns, _key("completion", "conversation_id", "turn_id", "number")
)
tool_call = Table(
    "convokit_tool_call", metadata, ToolCallColumns, _key("tool_call", "conversation_id", "message_seq", "position")
)
entry = Table("convokit_entry", metadata, EntryColumns, _key("entry", "conversation_id", "number"))
prompt = Table("convokit_prompt", metadata, PromptColumns, _key("prompt", "tenant", "digest"))
blob = Table("convokit_blob", metadata, BlobColumns, _key("blob", "conversation_id", "digest"))
summary = Table("convokit_summary", metadata, SummaryColumns, _key("summary", "conversation_id", "number"))
removal = Table("convokit_removal", metadata, RemovalColumns, _key("removal", "conversation_id", "number"))
search = Table("convokit_search", metadata, SearchColumns, _key("search", "conversation_id", "seq"))
"""What search finds: a row for each message with words. Its index on `words`, and SQLite's rowids, only the migration knows."""
FTS = "convokit_search_words"
"""SQLite's FTS5 table; others, made by it, begin with this name."""
OF_ONE_ENGINE = frozenset({("column", "id"), ("index", "convokit_search_place"), ("index", "convokit_search_found")})
"""What the table of what search finds has on SQLite, or on PostgreSQL, alone."""
