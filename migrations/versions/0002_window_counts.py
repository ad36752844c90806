"""Two counts on replies, for the scale of the token counter.

Old code on the new schema: it leaves the columns null.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("convokit_message", sa.Column("window_tokens", sa.Integer))
    op.add_column("convokit_message", sa.Column("window_counted", sa.Integer))


def downgrade() -> None:
    op.drop_column("convokit_message", "window_counted")
    op.drop_column("convokit_message", "window_tokens")
