"""openai-agents: its two sessions on SQLite. `python agents_sessions.py FOLDER sqlite|sqlalchemy`."""

import sys

from agents import SQLiteSession
from agents.extensions.memory import SQLAlchemySession
from session_protocol import measure, run

folder, which = sys.argv[1:3]
session = (
    SQLiteSession("s", f"{folder}/agents.db")
    if which == "sqlite"
    else SQLAlchemySession.from_url("s", url=f"sqlite+aiosqlite:///{folder}/agents.db", create_tables=True)
)
run(measure(session.add_items, session.get_items, session.pop_item))
