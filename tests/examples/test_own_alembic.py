"""The application with its own Alembic: two sets of migrations, one transaction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect
from sqlalchemy.orm import Session

from convokit.store import indexes
from convokit.store.engine import parse_database_url

pytestmark = pytest.mark.once


def test_both_sides_share_a_database(
    load_example: Callable[[str], Any], empty_database: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both migrate, neither's autogenerate finds a difference, and a ticket is read with its messages before a commit."""
    url = parse_database_url(empty_database).render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    app = load_example("own_alembic/app")
    engine = create_engine(url)
    with app.make_kit() as kit:
        app.migrate(kit)
        app.migrate(kit)  # again, as every deployment does
        command.check(Config(checkout / "examples" / "own_alembic" / "alembic.ini"))
        with engine.connect() as connection:
            assert indexes.list_differences(connection) == []
            tables = set(inspect(connection).get_table_names())
        assert {"ticket", "alembic_version", "convokit_message", "convokit_alembic_version"} <= tables
        with Session(engine) as session:
            ticket_id = app.open_ticket(session, "山田", "80番ポートが使えません。")
            for _ in range(2):
                assert app.answer_ticket(session, kit, ticket_id) == "echo: 80番ポートが使えません。"
            session.get_one(app.Ticket, ticket_id).title = "Port 80"  # not committed
            assert app.read_ticket(session, ticket_id) == [
                f"Ticket {ticket_id} of 山田: Port 80",
                "  1 user: 80番ポートが使えません。",
                "  2 assistant: echo: 80番ポートが使えません。",
            ]
        assert [each.key for each in kit.conversations(subject="customer-1")] == [f"ticket-{ticket_id}"]
    engine.dispose()
