"""A table that says which conversations use a developer prompt or tool set. Search keys of 32 bits on PostgreSQL.

Old code on the new schema: it must be stopped before the upgrade, and is refused when it starts. It writes no uses, so an
erasure could delete a prompt that it stored. On PostgreSQL it also cannot read the keys of the search.

The keys of every indexed message and title are computed again, in pages.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

from convokit.domain.message import extract_row_text
from convokit.domain.search_periods import build_period_keys
from convokit.domain.search_words import build_keys, build_owner_keys, build_title_key

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_PAGE = 1000
_REFERENCE = r'"(?:prompt|tools)"\s*:\s*"([0-9a-f]{32})"'
_completion = sa.table(
    "convokit_completion",
    sa.column("conversation_id", sa.Uuid),
    sa.column("turn_id", sa.Uuid),
    sa.column("number", sa.Integer),
    sa.column("manifest", sa.Text),
)
_conversation = sa.table("convokit_conversation", sa.column("id", sa.Uuid), sa.column("tenant"), sa.column("title"))
_message = sa.table(
    "convokit_message",
    sa.column("conversation_id", sa.Uuid),
    sa.column("seq", sa.Integer),
    sa.column("content", sa.Text),
    sa.column("parts", sa.Text),
    sa.column("refusal", sa.Text),
)
_search = sa.table(
    "convokit_search",
    sa.column("conversation_id", sa.Uuid),
    sa.column("seq", sa.Integer),
    sa.column("created_at", sa.BigInteger),
    sa.column("words", sa.ARRAY(sa.Integer)),
    sa.column("old_words", sa.ARRAY(sa.SmallInteger)),
)


def upgrade() -> None:
    use = op.create_table(
        "convokit_prompt_use",
        sa.Column(
            "conversation_id",
            sa.Uuid,
            sa.ForeignKey("convokit_conversation.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "digest", name="convokit_prompt_use_pk"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        _fill_by_statement()
    else:
        _fill_in_pages(use)
    op.create_index("convokit_prompt_use_digest", "convokit_prompt_use", ["digest"])
    if op.get_bind().dialect.name == "postgresql":
        _replace_search_keys()
    op.execute("UPDATE convokit_schema SET oldest_code = 2")


def _fill_by_statement() -> None:
    insert = sa.text(
        "INSERT INTO convokit_prompt_use (conversation_id, digest)"
        " SELECT DISTINCT conversation_id, decode(found[1], 'hex')"
        " FROM convokit_completion, regexp_matches(manifest, :reference, 'g') AS found"
    )
    op.get_bind().execute(insert, {"reference": _REFERENCE})


def _fill_in_pages(use: sa.Table) -> None:
    # SQLite has `unhex` from 3.41 on only.
    bind, key = op.get_bind(), (_completion.c.conversation_id, _completion.c.turn_id, _completion.c.number)
    query = page = sa.select(*key, _completion.c.manifest).order_by(*key).limit(_PAGE)
    insert: Any = sa.insert(use).prefix_with("OR IGNORE")
    while rows := bind.execute(page).all():
        found = {(row[0], digest) for row in rows for digest in re.findall(_REFERENCE, row[3])}
        if found:
            bind.execute(insert, [{"conversation_id": each, "digest": bytes.fromhex(digest)} for each, digest in found])
        page = query.where(sa.tuple_(*key) > tuple(rows[-1][:3]))


def _replace_search_keys() -> None:
    op.drop_index("convokit_search_found", "convokit_search")
    op.alter_column("convokit_search", "words", new_column_name="old_words")
    op.add_column("convokit_search", sa.Column("words", sa.ARRAY(sa.Integer)))
    bind, key = op.get_bind(), (_search.c.conversation_id, _search.c.seq)
    text = (_message.c.content, _message.c.parts, _message.c.refusal)
    query = page = (
        sa.select(*key, _search.c.created_at, _conversation.c.tenant, _conversation.c.title, *text)
        .join(_conversation, _conversation.c.id == _search.c.conversation_id)
        .outerjoin(
            _message,
            (_message.c.conversation_id == _search.c.conversation_id) & (_message.c.seq == _search.c.seq),
        )
        .where(_search.c.old_words.is_not(None))
        .order_by(*key)
        .limit(_PAGE)
    )
    update = (
        sa.update(_search)
        .where(_search.c.conversation_id == sa.bindparam("b_id"), _search.c.seq == sa.bindparam("b_seq"))
        .values(words=sa.bindparam("new_words"))
    )
    while rows := bind.execute(page).all():
        values = [{"b_id": row[0], "b_seq": row[1], "new_words": _build_search_keys(row)} for row in rows]
        bind.execute(update, [each for each in values if each["new_words"]])
        page = query.where(sa.tuple_(*key) > tuple(rows[-1][:2]))
    op.drop_column("convokit_search", "old_words")
    _create_search_index(pending_kb=4096)


def _build_search_keys(row: Any) -> list[int]:
    """Return the keys of a message or title; none for a message whose text was removed."""
    is_title = row.seq == 0
    keys = build_keys((row.title or "") if is_title else extract_row_text(row.content, row.parts, row.refusal))
    owners = [build_title_key(row.tenant)] if is_title else build_owner_keys(row.tenant, row.conversation_id)
    every: Iterable[str] = (*keys, *owners, *build_period_keys(row.created_at)) if keys else ()
    return sorted({zlib.crc32(each.encode()) - 2**31 for each in every})


def _create_search_index(*, pending_kb: int) -> None:
    # Each search reads what is pending. A larger list is merged in fewer and larger steps, which write less of the log.
    op.create_index(
        "convokit_search_found",
        "convokit_search",
        ["words"],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": pending_kb},
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # Older code finds nothing until the rows are deleted and `reindex` has written them again.
        op.drop_index("convokit_search_found", "convokit_search")
        op.drop_column("convokit_search", "words")
        op.add_column("convokit_search", sa.Column("words", sa.ARRAY(sa.SmallInteger)))
        _create_search_index(pending_kb=256)
    op.drop_table("convokit_prompt_use")
    op.execute("UPDATE convokit_schema SET oldest_code = 1")
