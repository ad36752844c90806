"""Move in from LangChain's message table, which `SQLChatMessageHistory` writes.

python import_langchain.py sqlite:///langchain.db sqlite:///chat.db
"""

import json
import sys
from itertools import groupby

from langchain_messages import make_message
from sqlalchemy import column, create_engine, select, table

from convokit import Convokit
from convokit.errors import HeadMoved


def import_history(source: str, kit: Convokit, table_name: str = "message_store") -> None:
    """Write one conversation for each session. A session that was imported before is left as it is."""
    stored = table(table_name, column("id"), column("session_id"), column("message"))
    engine = create_engine(source)
    with engine.connect() as connection:
        rows = connection.execute(select(stored).order_by(stored.c.session_id, stored.c.id))
        for session_id, found in groupby(rows, key=lambda row: row.session_id):
            messages = [make_message(json.loads(row.message)) for row in found]
            try:
                written = kit.chat(f"langchain:{session_id}").append(messages, expect=0)
                print(f"langchain:{session_id}: {len(written)} messages")
            except HeadMoved:
                print(f"langchain:{session_id}: went on since it was imported, and is left as it is")
    engine.dispose()


if __name__ == "__main__":
    with Convokit(sys.argv[2]) as target:
        target.migrate()
        import_history(sys.argv[1], target)
