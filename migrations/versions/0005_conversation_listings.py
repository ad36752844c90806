"""Two indexes for listings: conversations by key, and archived conversations.

Old code on the new schema: it does not read them. Its searches do not find the titles that new code indexes.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Keys are compared by code points, whatever the collation of the database: a prefix is then a range of the index.
    collation = '"C"' if op.get_bind().dialect.name == "postgresql" else "BINARY"
    op.execute(
        "CREATE INDEX convokit_conversation_key ON convokit_conversation"
        f" (tenant, key COLLATE {collation}) WHERE key IS NOT NULL"
    )
    is_archived = sa.text("archived_at IS NOT NULL")
    op.create_index(
        "convokit_conversation_archived",
        "convokit_conversation",
        ["tenant", "updated_at", "id"],
        sqlite_where=is_archived,
        postgresql_where=is_archived,
    )


def downgrade() -> None:
    op.drop_index("convokit_conversation_archived", "convokit_conversation")
    op.drop_index("convokit_conversation_key", "convokit_conversation")
