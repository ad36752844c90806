"""The first schema.

Old code on the new schema: there is none.

Revision: 0001, the root.
"""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _tables_of_a_database()
    _tables_of_a_conversation()
    _tables_of_a_turn()
    _tables_of_the_record()
    _tables_of_search()


def _owner() -> sa.Column[uuid.UUID]:
    return sa.Column(
        "conversation_id", sa.Uuid, sa.ForeignKey("convokit_conversation.id", ondelete="CASCADE"), nullable=False
    )


_SMALL: dict[str, Any] = {"sqlite_with_rowid": False}
"""Rows that are small enough to lie in their key's own tree, instead of being named there a second time."""


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _tables_of_a_database() -> None:
    schema = op.create_table(
        "convokit_schema",
        sa.Column("only", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("oldest_code", sa.Integer, nullable=False),
        sa.Column("database_id", sa.Uuid, nullable=False),
    )
    op.bulk_insert(schema, [{"only": 1, "oldest_code": 1, "database_id": uuid.uuid4()}])
    op.create_table(
        "convokit_prompt",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest", name="convokit_prompt_pk"),
    )


def _tables_of_a_conversation() -> None:
    op.create_table(
        "convokit_conversation",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("title", sa.Text),
        sa.Column("metadata", sa.Text),
        sa.Column("settings", sa.Text),
        sa.Column("head_seq", sa.Integer),
        sa.Column("last_seq", sa.Integer, nullable=False),
        sa.Column("last_entry", sa.Integer, nullable=False),
        sa.Column("chain_hash", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("archived_at", sa.BigInteger),
        sa.Column("pins", sa.Text),
    )
    op.create_index("convokit_conversation_recent", "convokit_conversation", ["tenant", "updated_at", "id"])
    op.create_index(
        "convokit_conversation_subject",
        "convokit_conversation",
        ["tenant", "subject", "updated_at", "id"],
        **_where("subject IS NOT NULL"),
    )
    op.create_table(
        "convokit_branch",
        _owner(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("head_seq", sa.Integer),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "number", name="convokit_branch_pk"),
        **_SMALL,
    )
    named = _where("name IS NOT NULL")
    op.create_index("convokit_branch_name", "convokit_branch", ["conversation_id", "name"], unique=True, **named)
    op.create_table(
        "convokit_message",
        _owner(),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("parent_seq", sa.Integer),
        sa.Column("run_start_seq", sa.Integer, nullable=False),
        sa.Column("turn_id", sa.Uuid),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text),
        sa.Column("parts", sa.Text),
        sa.Column("tool_calls", sa.Text),
        sa.Column("tool_call_id", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("refusal", sa.Text),
        sa.Column("extra", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("counter", sa.Text, nullable=False),
        sa.Column("path_tokens", sa.BigInteger, nullable=False),
        sa.Column("window_from_seq", sa.Integer),
        sa.Column("window_rule", sa.BigInteger),
        sa.Column("salt", sa.LargeBinary),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "seq", name="convokit_message_pk"),
    )
    parting = _where("run_start_seq = seq")
    op.create_index("convokit_message_parting", "convokit_message", ["conversation_id", "parent_seq"], **parting)


def _tables_of_a_turn() -> None:
    op.create_table(
        "convokit_turn",
        _owner(),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("branch", sa.Integer, nullable=False),
        sa.Column("question_seq", sa.Integer, nullable=False),
        sa.Column("after_seq", sa.Integer),
        sa.Column("after_entry", sa.Integer),
        sa.Column("reply_seq", sa.Integer),
        sa.Column("idempotency_hash", sa.LargeBinary),
        sa.Column("fingerprint", sa.LargeBinary),
        sa.Column("fingerprint_salt", sa.LargeBinary),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("claim", sa.Integer),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("first_token_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("conversation_id", "id", name="convokit_turn_pk"),
        **_SMALL,
    )
    claimed, keyed = _where("claim IS NOT NULL"), _where("idempotency_hash IS NOT NULL")
    op.create_index("convokit_turn_claim", "convokit_turn", ["conversation_id", "claim"], unique=True, **claimed)
    op.create_index(
        "convokit_turn_idempotency", "convokit_turn", ["conversation_id", "idempotency_hash"], unique=True, **keyed
    )
    again = _where("after_entry IS NOT NULL")
    op.create_index("convokit_turn_again", "convokit_turn", ["conversation_id", "question_seq"], **again)
    op.create_index("convokit_turn_open", "convokit_turn", ["lease_until"], **claimed)
    op.create_table(
        "convokit_chunk",
        _owner(),
        sa.Column("turn_id", sa.Uuid, nullable=False),
        sa.Column("completion", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "turn_id", "completion", "number", name="convokit_chunk_pk"),
        **_SMALL,
    )
    op.create_table(
        "convokit_tool_call",
        _owner(),
        sa.Column("turn_id", sa.Uuid, nullable=False),
        sa.Column("message_seq", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("result_seq", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("conversation_id", "message_seq", "position", name="convokit_tool_call_pk"),
        **_SMALL,
    )


def _tables_of_the_record() -> None:
    op.create_table(
        "convokit_completion",
        _owner(),
        sa.Column("turn_id", sa.Uuid, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("body_salt", sa.LargeBinary),
        sa.Column("body_digest", sa.LargeBinary, nullable=False),
        sa.Column("requested_model", sa.Text, nullable=False),
        sa.Column("provider", sa.Text),
        sa.Column("served_model", sa.Text),
        sa.Column("response_id", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("finish_reason", sa.Text),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("cache_write_tokens", sa.Integer),
        sa.Column("reasoning_tokens", sa.Integer),
        sa.Column("usage_source", sa.Text),
        sa.Column("service_tier", sa.Text),
        sa.Column("cost_nanousd", sa.BigInteger),
        sa.Column("details", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("salt", sa.LargeBinary),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("first_byte_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("conversation_id", "turn_id", "number", name="convokit_completion_pk"),
    )
    op.create_table(
        "convokit_entry",
        _owner(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("commitment", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "number", name="convokit_entry_pk"),
        **_SMALL,
    )
    op.create_table(
        "convokit_blob",
        _owner(),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "digest", name="convokit_blob_pk"),
    )
    op.create_table(
        "convokit_summary",
        _owner(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("from_seq", sa.Integer, nullable=False),
        sa.Column("to_seq", sa.Integer, nullable=False),
        sa.Column("message_seq", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "number", name="convokit_summary_pk"),
        **_SMALL,
    )
    op.create_table(
        "convokit_removal",
        _owner(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("author", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "number", name="convokit_removal_pk"),
        **_SMALL,
    )


def _tables_of_search() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.create_table(
            "convokit_search",
            _owner(),
            sa.Column("seq", sa.Integer, nullable=False),
            sa.Column("role", sa.Text, nullable=False),
            sa.Column("created_at", sa.BigInteger, nullable=False),
            sa.Column("words", sa.ARRAY(sa.SmallInteger)),
            sa.PrimaryKeyConstraint("conversation_id", "seq", name="convokit_search_pk"),
        )
        pending = {
            "gin_pending_list_limit": 256
        }  # kB: every search reads what is pending, and a write that empties it waits
        op.create_index(
            "convokit_search_found", "convokit_search", ["words"], postgresql_using="gin", postgresql_with=pending
        )
        return
    op.create_table(
        "convokit_search",
        sa.Column("id", sa.Integer, primary_key=True),  # the name of the table's rowid: VACUUM leaves it alone
        _owner(),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("words", sa.Integer),
    )
    op.create_index("convokit_search_place", "convokit_search", ["conversation_id", "seq"], unique=True)
    op.execute(
        "CREATE VIRTUAL TABLE convokit_search_words USING fts5"
        "(words, content='', detail=none, columnsize=0, tokenize=\"ascii tokenchars '_'\")"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_table("convokit_search_words")
    for table in (
        "search", "removal", "summary", "blob", "entry", "completion", "tool_call", "chunk", "turn", "message", "branch",
        "conversation", "prompt", "schema",
    ):  # fmt: skip
        op.drop_table(f"convokit_{table}")
