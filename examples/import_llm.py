"""Move in from the log database of llm, whose path `llm logs path` prints.

llm logs status                                    # brings the database up to date
python import_llm.py "$(llm logs path)" sqlite:///chat.db
"""

import json
import re
import sqlite3
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

from llm_log import Entry, read_responses, read_thread

from convokit import Convokit, NewMessage
from convokit.errors import HeadMoved, InvalidInput

KIND = "llm/1"


def import_log(source: str, kit: Convokit) -> None:
    """Write one conversation for each thread. A thread that was imported before is left as it is."""
    with closing(sqlite3.connect(source)) as database:
        database.row_factory = sqlite3.Row
        # A thread has the id of the older conversation that it goes on with.
        names = dict(database.execute("SELECT id, name FROM conversations UNION SELECT id, name FROM threads"))
        tips = dict(database.execute("SELECT id, tip_message_hash FROM threads"))
        for thread_id, name in names.items():
            tip = tips.get(thread_id)
            entries = read_thread(database, thread_id, tip) if tip else read_responses(database, thread_id)
            messages = [message for entry in entries for message in make_messages(database, entry)]
            try:
                written = kit.chat(f"llm:{thread_id}", title=name).append(messages, expect=0)
                print(f"llm:{thread_id}: {len(written)} messages")
            except HeadMoved:
                print(f"llm:{thread_id}: went on since it was imported, and is left as it is")
            except InvalidInput as error:
                print(f"llm:{thread_id}: is not imported: {error}")


def make_messages(database: sqlite3.Connection, entry: Entry) -> Iterator[NewMessage]:
    """Convert a message of llm. Each result of a tool becomes a message; the first one keeps the item."""
    item, time = entry
    at = datetime.fromisoformat(time) if time else None
    results, calls = (
        [part for part in item["parts"] if part["type"] == kind and not part.get("server_executed")]
        for kind in ("tool_result", "tool_call")
    )
    if item["role"] == "tool":
        for number, part in enumerate(results):
            call_id = part.get("tool_call_id") or f"call_{number}"
            kept = item if number == 0 else None
            yield NewMessage("tool", part["output"], tool_call_id=call_id, created_at=at, kind=KIND, item=kept)
        return
    asked = [
        {
            "id": part.get("tool_call_id") or f"call_{number}",
            "type": "function",
            "function": {"name": part["name"], "arguments": json.dumps(part["arguments"], ensure_ascii=False)},
        }
        for number, part in enumerate(calls)
        # The API refuses other names, such as Japanese ones; the item has them.
        if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", part["name"])
    ]
    yield NewMessage(item["role"], _read_content(database, item), asked, created_at=at, kind=KIND, item=item)


def _read_content(database: sqlite3.Connection, item: dict[str, Any]) -> str | list[Any]:
    """Return the texts, and the images of a user. Other attachments stay in llm's database."""
    content: list[Any] = [part["text"] for part in item["parts"] if part["type"] == "text"]
    for part in item["parts"]:
        if part["type"] == "attachment" and item["role"] == "user":
            query = "SELECT type, url, content FROM attachments WHERE id = ?"
            kind, url, data = database.execute(query, [part["attachment"]["id"]]).fetchone()
            if kind.startswith("image/") and (url or data):
                url = url or f"data:{kind};base64,{b64encode(data).decode()}"
                content.append({"type": "image_url", "image_url": {"url": url}})
    return content if any(isinstance(part, dict) for part in content) else "".join(content)


if __name__ == "__main__":
    with Convokit(sys.argv[2]) as target:
        target.migrate()
        import_log(sys.argv[1], target)
