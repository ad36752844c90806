"""Move in from the database file of openai-agents' `SQLiteSession`.

python import_openai_agents.py sessions.db sqlite:///chat.db
"""

import json
import re
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from convokit import Convokit, Limits, NewMessage
from convokit.errors import HeadMoved, InvalidInput

KIND = "openai-agents/1"


def import_sessions(source: str, kit: Convokit) -> None:
    """Write one conversation for each session. A session that was imported before is left as it is."""
    query = "SELECT session_id, message_data, created_at FROM agent_messages ORDER BY session_id, id"
    with closing(sqlite3.connect(source)) as database:
        for session_id, rows in groupby(database.execute(query), key=lambda row: row[0]):
            messages = [make_message(json.loads(data), created_at) for _, data, created_at in rows]
            try:
                written = kit.chat(f"openai-agents:{session_id}").append(messages, expect=0)
                print(f"openai-agents:{session_id}: {len(written)} messages")
            except HeadMoved:
                print(f"openai-agents:{session_id}: went on since it was imported, and is left as it is")
            except InvalidInput as error:
                print(f"openai-agents:{session_id}: is not imported: {error}")


def make_message(item: dict[str, Any], created_at: str) -> NewMessage:
    """Convert an item of the Responses API. The item is kept as it is."""
    at = datetime.fromisoformat(created_at).replace(tzinfo=UTC)
    # The API refuses other names, such as Japanese ones. Such a call becomes a note.
    if item.get("type") == "function_call" and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", item["name"]):
        function = {"name": item["name"], "arguments": item["arguments"]}
        calls = [{"id": item["call_id"], "type": "function", "function": function}]
        return NewMessage("assistant", tool_calls=calls, created_at=at, kind=KIND, item=item)
    if item.get("type") == "function_call_output":
        output, call_id = read_content(item["output"]), item["call_id"]
        return NewMessage("tool", output, tool_call_id=call_id, created_at=at, kind=KIND, item=item)
    # Instructions, reasoning and the calls of hosted tools: kept, and never sent.
    role = item["role"] if item.get("role") in ("user", "assistant") else "system"
    return NewMessage(role, read_content(item.get("content")), created_at=at, kind=KIND, item=item)


def read_content(content: str | list[dict[str, Any]] | None) -> str | list[dict[str, Any]] | None:
    """Return text and images in the shape of Chat Completions. Other parts are in the item only."""
    if not isinstance(content, list):
        return content
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] in ("input_text", "output_text", "text"):
            parts.append({"type": "text", "text": part["text"]})
        elif part["type"] == "refusal":
            parts.append(part)
        elif part["type"] == "input_image" and part.get("image_url"):
            parts.append({"type": "image_url", "image_url": {"url": part["image_url"]}})
    only_text = all(part["type"] == "text" for part in parts)
    return "".join(part["text"] for part in parts) if only_text else parts


if __name__ == "__main__":
    # An item may hold an image, which is stored once more as a part.
    with Convokit(sys.argv[2], limits=Limits(message_bytes=64 * 2**20)) as target:
        target.migrate()
        import_sessions(sys.argv[1], target)
