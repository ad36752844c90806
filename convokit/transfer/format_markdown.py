"""Export a conversation as Markdown, for people to read.

Every message is a block quote. No text of a message can end the quote or look like a heading of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from convokit.domain.conversation import ConversationRow
from convokit.domain.message import TOOL, MessageRow, extract_text, to_datetime
from convokit.transfer import sql
from convokit.transfer.models import ExportChunk


def export_conversation(connection: Connection, row: ConversationRow) -> Iterator[ExportChunk]:
    """Yield the conversation's path."""
    title = row.title or row.key or str(row.id)
    facts = [f"conversation {row.id}", f"begun {_format_time(row.created_at)}"]
    if row.subject is not None:
        facts.append(f"of {_escape(row.subject)}")
    yield f"# {_escape(title)}\n\n{', '.join(facts)}\n\n", 0
    shown = 0
    for page in sql.read_path_pages(connection, row.id, row.head_seq):
        yield "".join(_format_message(each) for each in page), len(page)
        shown += len(page)
    if shown < row.last_seq:
        yield f"*{row.last_seq - shown:,} messages on other branches are not shown.*\n\n", 0


def _format_message(row: MessageRow) -> str:
    status = "" if row.status == "complete" else f", {row.status}"
    shape = row.as_wire()
    blocks = [text for text in (extract_text(shape["content"]), row.refusal) if text]
    if isinstance(shape["content"], list):
        blocks += [_format_attachment(part) for part in shape["content"] if part.get("type") != "text"]
    blocks += [_fence(json.dumps(call, ensure_ascii=False, indent=2)) for call in shape.get("tool_calls", ())]
    text = _fence(blocks[0]) if row.role == TOOL and blocks else "\n\n".join(blocks)
    heading = f"## {_escape(row.role)}, {_format_time(row.created_at)}{status}\n\n"
    return heading + (f"{_quote(text)}\n\n" if text else "")


def _format_attachment(part: dict[str, Any]) -> str:
    kind = str(part.get("type"))
    value = part.get(kind)
    name = value.get("filename") or value.get("url") if isinstance(value, dict) else None
    return f"[{kind}{f': {name}' if name else ''}]"


def _fence(text: str) -> str:
    # A fence is closed by as many backticks as opened it: use one more than the text contains.
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _quote(text: str) -> str:
    # Unlike `splitlines`, Markdown does not end a line at U+2028 and the like.
    return "\n".join(f"> {line}".rstrip() for line in re.split(r"\r\n|\r|\n", text))


def _escape(text: str) -> str:
    """Return the text on one line, with Markdown markup escaped."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _format_time(microseconds: int) -> str:
    return f"{to_datetime(microseconds):%Y-%m-%d %H:%M} UTC"
