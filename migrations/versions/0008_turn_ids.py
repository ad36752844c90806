"""An index that finds a turn by its id alone.

Old code on the new schema works: the database keeps the index.

Revision: 0008, after 0007.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("convokit_turn_id", "convokit_turn", ["id"])


def downgrade() -> None:
    op.drop_index("convokit_turn_id", "convokit_turn")
