"""The metadata of a turn, and the order of a running reply's chunks.

Old code on the new schema: it leaves the columns null.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("convokit_turn", sa.Column("metadata", sa.Text))
    op.add_column("convokit_chunk", sa.Column("events", sa.Text))


def downgrade() -> None:
    op.drop_column("convokit_chunk", "events")
    op.drop_column("convokit_turn", "metadata")
