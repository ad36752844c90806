"""Read conversations from the log database of llm (schema of llm 0.36)."""

import json
import sqlite3
from typing import Any

Entry = tuple[dict[str, Any], str | None]
"""A message as llm has it, with its role and parts, and the time of the call that it belongs to."""


def read_thread(database: sqlite3.Connection, thread_id: str, tip: str | None) -> list[Entry]:
    """Return the messages of a thread from its tip backwards, oldest first."""
    times: dict[str, str] = {}
    for row in database.execute("SELECT * FROM turns WHERE thread_id = ?", [thread_id]):
        times |= {row["parent_message_hash"]: row["datetime_utc"], row["tip_message_hash"]: row["datetime_utc"]}
    entries: list[Entry] = []
    time = None
    while tip is not None:
        message = database.execute("SELECT * FROM messages WHERE hash = ?", [tip]).fetchone()
        rows = database.execute("SELECT * FROM parts WHERE message_hash = ? ORDER BY position", [tip])
        time = times.get(tip, time)
        entries.append(({"role": message["role"], "parts": [_read_part(database, row) for row in rows]}, time))
        tip = message["parent_hash"]
    return entries[::-1]


def _read_part(database: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any]:
    part = {"type": row["type"], **json.loads(row["payload"] or "{}")}
    if row["text"] is not None:
        part["text"] = row["text"]
    if "text_ref" in part:  # text that contains fragments
        texts = dict(database.execute("SELECT fragment_id, content FROM part_fragments JOIN fragments ON id = fragment_id"
                                      " WHERE part_id = ?", [row["id"]]))  # fmt: skip
        pieces = part.pop("text_ref")
        part["text"] = "".join(each["literal"] if "literal" in each else texts[each["fragment"]] for each in pieces)
    return part


def read_responses(database: sqlite3.Connection, conversation_id: str) -> list[Entry]:
    """Return the messages of a conversation that an older version logged in `responses`, in the same shape."""
    entries: list[Entry] = []
    rows = database.execute("SELECT * FROM responses WHERE conversation_id = ? ORDER BY id", [conversation_id])
    for row in rows:
        answered = database.execute("SELECT * FROM tool_results WHERE response_id = ? ORDER BY id", [row["id"]])
        asked = database.execute("SELECT * FROM tool_calls WHERE response_id = ? ORDER BY id", [row["id"]])
        query = 'SELECT {} FROM {} JOIN {}s t ON t.id = {}_id WHERE response_id = ? ORDER BY "order"'
        fragments = database.execute(query.format("content", "prompt_fragments", "fragment", "fragment"), [row["id"]])
        files = database.execute(query.format("t.id", "prompt_attachments", "attachment", "attachment"), [row["id"]])
        question = "\n".join(text for text in [*(each[0] for each in fragments), row["prompt"]] if text)
        results = [_read_tool(each) | {"type": "tool_result", "output": each["output"]} for each in answered]
        calls = [_read_tool(each) | {"type": "tool_call", "arguments": json.loads(each["arguments"])} for each in asked]
        attached = [{"type": "attachment", "attachment": {"id": each[0]}} for each in files]
        parts = {
            "system": _make_text(row["system"]),
            "tool": results,
            "user": _make_text(question) + attached,
            "assistant": _make_text(row["response"]) + calls,
        }
        entries += [({"role": role, "parts": each}, row["datetime_utc"]) for role, each in parts.items() if each]
    return entries


def _read_tool(row: sqlite3.Row) -> dict[str, Any]:
    return {"name": row["name"], "tool_call_id": row["tool_call_id"]}


def _make_text(text: str | None) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text else []
