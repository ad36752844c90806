"""Define the tables as typed SQLAlchemy Core.

`indexes` adds the indexes; the Alembic scripts create everything, and a test compares the two.

The key of every table below a conversation begins with `conversation_id`. No unique index and no foreign key crosses
conversations, so the tables can be distributed by conversation. Messages are ordered by `seq`, never by time. Times are
microseconds since 1970 UTC and for people to read, except `lease_until`, which the database's own clock sets and compares.
JSON is text that convokit serializes: the native types reorder keys, lose large integers or reject NUL escapes, each on
another database.
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
    Table,
    Text,
    TypedColumns,
    Uuid,
)

PREFIX = "convokit_"
VERSION_TABLE = "convokit_alembic_version"
REVISION = "0008"
"""The newest migration that this code knows. It needs this revision or a later one."""
GENERATION = 3
"""Compared with `convokit_schema.oldest_code`. A release raises it so that a migration can exclude the code before it."""

metadata = MetaData()


class _OfConversation(TypedColumns):
    conversation_id = Column(Uuid, ForeignKey("convokit_conversation.id", ondelete="CASCADE"), nullable=False)


class SchemaColumns(TypedColumns):
    only = Column(Integer, primary_key=True, autoincrement=False)
    """Always 1: the table has one row."""
    oldest_code: Named[int]
    database_id = Column(Uuid, nullable=False)
    """Random, one for each database. Conversation ids are derived from it and the key."""


class ConversationColumns(TypedColumns):
    id = Column(Uuid, primary_key=True)
    tenant = Column(Text, nullable=False)
    key = Column(Text)
    subject = Column(Text)
    title = Column(Text)
    metadata = Column(Text)
    settings = Column(Text)
    """JSON: the settings of this chat. The kit's own settings are never copied here."""
    head_seq = Column(Integer)
    """The last message of the main branch (number 0); null before the first message."""
    last_seq = Column(Integer, nullable=False)
    last_entry = Column(Integer, nullable=False)
    """The number of the last chain entry. Writers compare and swap it as the version of the conversation."""
    chain_hash = Column(LargeBinary, nullable=False)
    created_at = Column(BigInteger, nullable=False)
    updated_at = Column(BigInteger, nullable=False)
    archived_at = Column(BigInteger)
    pins = Column(Text)
    """JSON array of seqs: messages that are sent even if they are older than the window."""


class BranchColumns(_OfConversation):
    number = Column(Integer, nullable=False)
    name = Column(Text)
    head_seq = Column(Integer)
    created_at = Column(BigInteger, nullable=False)


class MessageColumns(_OfConversation):
    seq = Column(Integer, nullable=False)
    parent_seq = Column(Integer)
    run_start_seq = Column(Integer, nullable=False)
    """The first seq of the message's run. The path has no gap from there on, so a range scan reads it."""
    turn_id = Column(Uuid)
    role = Column(Text, nullable=False)
    content = Column(Text)
    parts = Column(Text)
    """JSON array of content parts if the content is not plain text. Binaries are references to `blob`."""
    tool_calls = Column(Text)
    tool_call_id = Column(Text)
    name = Column(Text)
    refusal = Column(Text)
    extra = Column(Text)
    """JSON: keys outside the API's standard, and the provider that sent them."""
    kind = Column(Text)
    """The program that wrote the message by `append`, such as `openai-agents/1`. In the chain if it is set, with `item`."""
    item = Column(Text)
    """JSON: the message as that program has it. It is never sent, and no window reads it. Needs a `kind`."""
    status = Column(Text, nullable=False)
    tokens = Column(Integer, nullable=False)
    counter = Column(Text, nullable=False)
    path_tokens = Column(BigInteger, nullable=False)
    """Tokens of the path up to and including this message. Selects the rows of a window; a redaction keeps it."""
    window_from_seq = Column(Integer)
    """On questions and replies: the first message of the window that was sent."""
    window_rule = Column(BigInteger)
    """On questions and replies: a checksum of model, counter, step and strategy. While it stays the same, the start is held."""
    window_tokens = Column(Integer)
    """On replies: the prompt tokens that the server reported of the request. Not in the chain; null before revision 0002."""
    window_counted = Column(Integer)
    """On replies: what the counter said of the same request. Not in the chain; null before revision 0002."""
    salt = Column(LargeBinary)
    created_at = Column(BigInteger, nullable=False)


class TurnColumns(_OfConversation):
    id = Column(Uuid, nullable=False)
    branch = Column(Integer, nullable=False)
    question_seq = Column(Integer, nullable=False)
    after_seq = Column(Integer)
    """If the question existed: the last seq when the turn started. The turn's own messages have higher seqs."""
    after_entry = Column(Integer)
    """If the question existed: the last chain entry when the turn started. It orders the turns of a question."""
    reply_seq = Column(Integer)
    idempotency_hash = Column(LargeBinary)
    fingerprint = Column(LargeBinary)
    fingerprint_salt = Column(LargeBinary)
    state = Column(Text, nullable=False)
    claim = Column(Integer)
    """The branch's number while the turn is open, else null. A unique index allows one open turn for each branch."""
    epoch = Column(Integer, nullable=False)
    """Raised by every takeover and reopening. Writes under an older epoch match no row."""
    owner = Column(Text)
    lease_until = Column(BigInteger)
    error = Column(Text)
    started_at = Column(BigInteger, nullable=False)
    first_token_at = Column(BigInteger)
    ended_at = Column(BigInteger)
    metadata = Column(Text)
    """JSON: a value of the application. Not in the chain; null before revision 0004."""


class ChunkColumns(_OfConversation):
    turn_id = Column(Uuid, nullable=False)
    completion = Column(Integer, nullable=False)
    number = Column(Integer, nullable=False)
    text = Column(Text, nullable=False)
    events = Column(Text)
    """JSON: the order of text, reasoning, refusal and tool calls; null where there is text alone."""


class CompletionColumns(_OfConversation):
    turn_id = Column(Uuid, nullable=False)
    number = Column(Integer, nullable=False)
    state = Column(Text, nullable=False)
    manifest = Column(Text, nullable=False)
    """JSON: references to everything the request was built from."""
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
    """The cost that the server reported, in billionths of a US dollar. It takes precedence over price lists."""
    details = Column(Text)
    """JSON: values that the server reported beyond these columns."""
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


class PromptUseColumns(_OfConversation):
    digest = Column(LargeBinary, nullable=False)
    """A prompt or tool set of the conversation's tenant that a manifest of this conversation names."""


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
    # The only column whose type differs between the databases.
    words: Named[Any] = Column(ARRAY(Integer).with_variant(Integer, "sqlite"), nullable=True)
    """PostgreSQL: 32-bit hashes of the message's keys. SQLite: a checksum of the keys. Null after the words were removed."""


class RemovalColumns(_OfConversation):
    number = Column(Integer, nullable=False)
    """The chain entry, of kind redaction or erasure, that commits to this row."""
    ref = Column(Text, nullable=False)
    """The removed row: `message:<seq>`, `completion:<turn>:<number>`, or `*` for everything up to this entry."""
    author = Column(Text)
    """Who removed it, as the caller stated."""
    reason = Column(Text)
    salt = Column(LargeBinary, nullable=False)
    created_at = Column(BigInteger, nullable=False)


class AnchorColumns(_OfConversation):
    seq = Column(Integer, nullable=False)
    """A message that a client's history ended with."""
    digest = Column(LargeBinary, nullable=False)
    """A keyed digest of the history up to this message. A redaction of a message of it deletes the row."""
    tenant = Column(Text, nullable=False)
    created_at = Column(BigInteger, nullable=False)


class KeyColumns(TypedColumns):
    digest = Column(LargeBinary, nullable=False)
    """SHA-256 of the API key. The key itself is stored nowhere."""
    tenant = Column(Text, nullable=False)
    name = Column(Text, nullable=False)
    scopes = Column(Text, nullable=False)
    """JSON array of `chat` and `read`."""
    models = Column(Text)
    """JSON array of the models that the key may use; null for all."""
    requests_per_minute = Column(Integer)
    created_at = Column(BigInteger, nullable=False)
    expires_at = Column(BigInteger)
    revoked_at = Column(BigInteger)


class KeyWindowColumns(TypedColumns):
    digest = Column(LargeBinary, nullable=False)
    kind = Column(Text, nullable=False)
    """What is counted: `requests`."""
    period = Column(BigInteger, nullable=False)
    """The minutes since 1970."""
    used = Column(BigInteger, nullable=False)
    """What all processes have taken of the window's limit."""


def _build_key(table: str, *columns: str) -> PrimaryKeyConstraint:
    return PrimaryKeyConstraint(*columns, name=f"{PREFIX}{table}_pk")


schema_ = Table("convokit_schema", metadata, SchemaColumns)

conversation = Table("convokit_conversation", metadata, ConversationColumns)
branch = Table("convokit_branch", metadata, BranchColumns, _build_key("branch", "conversation_id", "number"))
message = Table("convokit_message", metadata, MessageColumns, _build_key("message", "conversation_id", "seq"))
turn = Table("convokit_turn", metadata, TurnColumns, _build_key("turn", "conversation_id", "id"))
chunk = Table(
    "convokit_chunk", metadata, ChunkColumns, _build_key("chunk", "conversation_id", "turn_id", "completion", "number")
)
completion = Table(
    "convokit_completion", metadata, CompletionColumns, _build_key("completion", "conversation_id", "turn_id", "number")
)
tool_call = Table(
    "convokit_tool_call",
    metadata,
    ToolCallColumns,
    _build_key("tool_call", "conversation_id", "message_seq", "position"),
)
entry = Table("convokit_entry", metadata, EntryColumns, _build_key("entry", "conversation_id", "number"))
prompt = Table("convokit_prompt", metadata, PromptColumns, _build_key("prompt", "tenant", "digest"))
prompt_use = Table(
    "convokit_prompt_use", metadata, PromptUseColumns, _build_key("prompt_use", "conversation_id", "digest")
)
blob = Table("convokit_blob", metadata, BlobColumns, _build_key("blob", "conversation_id", "digest"))
summary = Table("convokit_summary", metadata, SummaryColumns, _build_key("summary", "conversation_id", "number"))
removal = Table("convokit_removal", metadata, RemovalColumns, _build_key("removal", "conversation_id", "number"))
anchor = Table("convokit_anchor", metadata, AnchorColumns, _build_key("anchor", "conversation_id", "seq"))
key = Table("convokit_key", metadata, KeyColumns, _build_key("key", "digest"))
key_window = Table(
    "convokit_key_window", metadata, KeyWindowColumns, _build_key("key_window", "digest", "kind", "period")
)
search = Table("convokit_search", metadata, SearchColumns, _build_key("search", "conversation_id", "seq"))
"""The search index: a row for each message with words. Only the migration knows its index on `words` and SQLite's rowids."""
FTS = "convokit_search_words"
"""SQLite's FTS5 table. FTS5 creates further tables whose names begin with this name."""
OF_ONE_DATABASE = frozenset({("column", "id"), ("index", "convokit_search_place"), ("index", "convokit_search_found")})
"""Columns and indexes of the search index that exist on one database only."""
