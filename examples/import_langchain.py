"""Move in from LangChain's message table, which `SQLChatMessageHistory` writes.

python import_langchain.py sqlite:///langchain.db sqlite:///chat.db
"""

import json
import sys
from itertools import groupby

from langchain_messages import make_message
from sqlalchemy import column, create_engine, select, table

from convokit import Convokit, Limits
from convokit.errors import HeadMoved, InvalidInput


def import_history(source: str, kit: Convokit, table_name: str = "message_store") -> None:
    """Write one conversation for each session. A session that was imported before is left as it is."""
    stored = table(table_name, column("id"), column("session_id"), column("message"))
    engine = create_engine(source)
    with engine.connect() as connection:
        rows = connection.execute(select(stored).order_by(stored.c.session_id, stored.c.id))
        for session_id, found in groupby(rows, key=lambda row: row.session_id):
            items = [row.message if isinstance(row.message, dict) else json.loads(row.message) for row in found]
            messages = [make_message(item) for item in items]
            try:
                written = kit.chat(f"langchain:{session_id}").append(messages, expect=0)
                print(f"langchain:{session_id}: {len(written)} messages")
            except HeadMoved:
                print(f"langchain:{session_id}: went on since it was imported, and is left as it is")
            except InvalidInput as error:
                print(f"langchain:{session_id}: is not imported: {error}")
    engine.dispose()


if __name__ == "__main__":
    # An item may hold an image, which is stored once more as a part.
    with Convokit(sys.argv[2], limits=Limits(message_bytes=64 * 2**20)) as target:
        target.migrate()
        import_history(sys.argv[1], target)
