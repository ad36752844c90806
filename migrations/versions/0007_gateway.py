"""API keys of the gateway, their windows of requests, and the anchors by which it finds a conversation.

Old code on the new schema works, and writes no anchors. It must be stopped all the same before text is erased: an erasure by
old code leaves the anchors of that text, which are keyed digests. So it is refused when it starts.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "convokit_key",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("models", sa.Text),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("digest", name="convokit_key_pk"),
    )
    op.create_index("convokit_key_name", "convokit_key", ["tenant", "name"], unique=True)
    op.create_table(
        "convokit_key_window",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("period", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("digest", "kind", "period", name="convokit_key_window_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "convokit_anchor",
        sa.Column(
            "conversation_id",
            sa.Uuid,
            sa.ForeignKey("convokit_conversation.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "seq", name="convokit_anchor_pk"),
        sqlite_with_rowid=False,
    )
    op.create_index("convokit_anchor_digest", "convokit_anchor", ["tenant", "digest", "created_at"])
    op.execute("UPDATE convokit_schema SET oldest_code = 3")


def downgrade() -> None:
    op.drop_table("convokit_anchor")
    op.drop_table("convokit_key_window")
    op.drop_table("convokit_key")
    op.execute("UPDATE convokit_schema SET oldest_code = 2")
