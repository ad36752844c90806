"""Two columns for messages that another program appends: its name, and its own form of the message.

Old code on the new schema: it leaves the columns null. It cannot verify rows that have a kind.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("convokit_message", sa.Column("kind", sa.Text))
    op.add_column("convokit_message", sa.Column("item", sa.Text))


def downgrade() -> None:
    op.drop_column("convokit_message", "item")
    op.drop_column("convokit_message", "kind")
