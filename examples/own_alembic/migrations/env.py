"""Run the application's migrations. Tables of convokit belong to convokit's own migrations."""

from alembic import context
from models import DATABASE, Base
from sqlalchemy import create_engine


def include_name(name: str | None, kind: str, parent_names: object) -> bool:
    """Leave convokit's tables out, or autogenerate would propose to drop them."""
    return kind != "table" or not (name or "").startswith("convokit_")


engine = create_engine(DATABASE)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=include_name)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
