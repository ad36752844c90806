"""Test convokit inside a host application with its own session, tables and Alembic."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Integer, String, create_engine, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from convokit.store import conversations, indexes, path_pages
from convokit.store.engine import parse_database_url
from tests.support.faces import Face
from tests.support.server import LoopbackServer


class Base(DeclarativeBase):
    """The host's own models."""


class Ticket(Base):
    """A table of the host, which points at a conversation by its key."""

    __tablename__ = "ticket"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    conversation_key: Mapped[str] = mapped_column(String(50))


def _host_alembic(folder: Path, url: str) -> Config:
    (folder / "versions").mkdir(parents=True)
    (folder / "script.py.mako").write_text(
        dedent('''\
        """${message}"""
        from alembic import op
        import sqlalchemy as sa
        revision = ${repr(up_revision)}
        down_revision = ${repr(down_revision)}
        def upgrade():
            ${upgrades if upgrades else "pass"}
        def downgrade():
            ${downgrades if downgrades else "pass"}
        ''')
    )
    (folder / "env.py").write_text(
        dedent("""\
        from alembic import context
        from sqlalchemy import create_engine
        from convokit.store.migrations import include_name
        from tests.store.test_host_application import Base

        def hosts_own(name, type_, parents):
            return type_ != "table" or not include_name(name, type_, parents)

        engine = create_engine(context.config.get_main_option("sqlalchemy.url"))
        with engine.begin() as connection:
            context.configure(connection=connection, target_metadata=Base.metadata, include_name=hosts_own)
            with context.begin_transaction():
                context.run_migrations()
        engine.dispose()
        """)
    )
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


@pytest.fixture
def host_url(empty_database: str) -> str:
    """The database as the host addresses it."""
    return parse_database_url(empty_database).render_as_string(hide_password=False)


def test_two_alembics_share_a_database(
    face: Face, empty_database: str, host_url: str, tmp_path: Path, server: LoopbackServer
) -> None:
    """Host and convokit migrate and autogenerate in one database; neither sees the tables of the other."""
    host = _host_alembic(tmp_path / "host", host_url)
    kit = face.kit(empty_database, model="loop-1", base_url=server.url)
    face.settle(kit.migrate())
    command.revision(host, "tickets", autogenerate=True)
    command.upgrade(host, "head")
    script = next((tmp_path / "host" / "versions").glob("*.py")).read_text()
    assert "ticket" in script
    assert "convokit" not in script
    command.check(host)
    engine = create_engine(host_url)
    with engine.connect() as connection:
        assert indexes.list_differences(connection) == []
        assert {"alembic_version", "convokit_alembic_version", "ticket"} <= set(inspect(connection).get_table_names())
    engine.dispose()
    assert face.settle(kit.chat("k").send("hello")).text == "echo: hello"


def test_store_functions_read_in_the_hosts_transaction(face: Face, database: str, server: LoopbackServer) -> None:
    kit: Any = face.kit(database, model="loop-1", base_url=server.url)
    chat = kit.chat("order-7")
    face.settle(chat.send("where is it?"))
    engine = create_engine(parse_database_url(database))
    with Session(engine) as session:
        Base.metadata.create_all(session.connection())
        session.add(Ticket(id=1, conversation_key="order-7"))
        connection = session.connection()
        row = conversations.find(connection, "default", chat.id)
        assert row is not None
        stored = path_pages.read_page(connection, row.id, row.head_seq, 10)
        assert [each.content for each in stored] == ["where is it?", "echo: where is it?"]
        session.rollback()
    with Session(engine) as session:
        assert not inspect(session.connection()).has_table("ticket") or not session.scalars(select(Ticket)).all()
    engine.dispose()
