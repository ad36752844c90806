"""A table that says which conversations use a developer prompt or tool set.

Old code on the new schema: it must be stopped before the upgrade, and is refused when it starts. It writes no uses, so an
erasure could delete a prompt that it stored.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from alembic import op

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
        _distribute()
        _fill_by_statement()
    else:
        _fill_in_pages(use)
    op.create_index("convokit_prompt_use_digest", "convokit_prompt_use", ["digest"])
    op.execute("UPDATE convokit_schema SET oldest_code = 2")


def _distribute() -> None:
    """Distribute the table if Citus distributes conversations. It would be a table of the coordinator alone, otherwise."""
    bind = op.get_bind()
    if bind.scalar(sa.text("SELECT to_regclass('pg_dist_partition')")) is None:
        return
    is_distributed = "SELECT 1 FROM pg_dist_partition WHERE logicalrelid = 'convokit_conversation'::regclass"
    if bind.scalar(sa.text(is_distributed)) is not None:
        op.execute(
            "SELECT create_distributed_table('convokit_prompt_use', 'conversation_id',"
            " colocate_with => 'convokit_conversation')"
        )


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


def downgrade() -> None:
    op.drop_table("convokit_prompt_use")
    op.execute("UPDATE convokit_schema SET oldest_code = 1")
