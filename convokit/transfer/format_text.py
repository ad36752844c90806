"""The talk alone, along the conversation's own path: as training data in the API's shape, and as Markdown for people."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import Connection

from convokit.context.strategy import Item
from convokit.context.validity import find_problems, select_sendable
from convokit.domain.content import blob_digests, inline_blobs
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, DEVELOPER, PASSAGE, TOOL, USER, MessageRow, extract_text, to_datetime
from convokit.domain.text import dump_json
from convokit.store import blobs
from convokit.transfer import sql

Count = Callable[[int], None]
_SENT = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal")
_UNFIT = ("partial", "redacted", "late")


def training(connection: Connection, row: ConversationRow, count: Count) -> Iterator[str]:
    """Yield one line of fine-tuning data, in pieces; nothing where no turn is complete."""
    prompt, tools = _instructions(connection, row)
    first = True
    for turn in _turns(sql.path(connection, row.id, row.head_seq)):
        shapes = _complete(connection, row, turn)
        if not shapes:
            continue
        if first:
            yield '{"messages":['
            shapes = [*([{"role": DEVELOPER, "content": prompt}] if prompt else []), *shapes]
        count(len(shapes))
        yield ("" if first else ",") + ",".join(dump_json(shape) for shape in shapes)
        first = False
    if not first:
        yield "]" + (f',"tools":{tools}' if tools else "") + "}\n"


def _instructions(connection: Connection, row: ConversationRow) -> tuple[str | None, str | None]:
    """Return developer prompt and tools (as JSON): the chat's own, else those of its newest API call."""
    settings = json.loads(row.settings) if row.settings else {}
    manifest = json.loads(sql.last_manifest(connection, row.id) or "{}")

    def kept(digest: str | None) -> str | None:
        return None if digest is None else blobs.find_prompt(connection, row.tenant, bytes.fromhex(digest))

    own = "developer_prompt" in settings
    return settings["developer_prompt"] if own else kept(manifest.get("prompt")), kept(manifest.get("tools"))


def _turns(pages: Iterable[list[MessageRow]]) -> Iterator[list[MessageRow]]:
    """Yield the path turn by turn: each from a question to what comes before the next one."""
    turn: list[MessageRow] = []
    for page in pages:
        for row in page:
            if row.status == PASSAGE:
                continue
            if row.role == USER and turn:
                yield turn
                turn = []
            turn.append(row)
    if turn:
        yield turn


def _complete(connection: Connection, row: ConversationRow, turn: list[MessageRow]) -> list[dict[str, Any]]:
    """Return a turn's messages as they may be sent; none where it has no whole reply, or something of it was removed."""
    if any(each.status in _UNFIT for each in turn):
        return []
    items = [Item(each.seq, _sent(each), 0, 0, each.status) for each in turn]
    kept, _ = select_sendable(items, partial="leave_out")
    shapes = [item.shape for item in kept]
    last = shapes[-1] if shapes else {}
    if last.get("role") != ASSISTANT or last.get("tool_calls") or find_problems(shapes):
        return []
    wanted = {digest for each in turn if each.parts is not None for digest in blob_digests(each.parts)}
    return inline_blobs(shapes, blobs.read_blobs(connection, row.id, wanted)) if wanted else shapes


def _sent(row: MessageRow) -> dict[str, Any]:
    shape = row.as_wire()
    return {key: shape[key] for key in _SENT if key in shape}


def markdown(connection: Connection, row: ConversationRow, count: Count) -> Iterator[str]:
    """Yield the conversation's path as Markdown. What was said is quoted: nothing in it can end, or forge, a heading."""
    title = row.title or row.key or str(row.id)
    yield f"# {_plain(title)}\n\n"
    facts = [f"conversation {row.id}", f"begun {_time(row.created_at)}"]
    if row.subject is not None:
        facts.append(f"of {_plain(row.subject)}")
    yield ", ".join(facts) + "\n\n"
    shown = 0
    for page in sql.path(connection, row.id, row.head_seq):
        yield "".join(_message(each) for each in page)
        count(len(page))
        shown += len(page)
    if shown < row.last_seq:
        yield f"*{row.last_seq - shown:,} messages on other branches are not shown.*\n\n"


def _message(row: MessageRow) -> str:
    status = "" if row.status == "complete" else f", {row.status}"
    shape = row.as_wire()
    blocks = [text for text in (extract_text(shape["content"]), row.refusal) if text]
    if isinstance(shape["content"], list):
        blocks += [_attached(part) for part in shape["content"] if part.get("type") != "text"]
    blocks += [_fenced(json.dumps(call, ensure_ascii=False, indent=2)) for call in shape.get("tool_calls", ())]
    said = _fenced(blocks[0]) if row.role == TOOL and blocks else "\n\n".join(blocks)
    return f"## {_plain(row.role)}, {_time(row.created_at)}{status}\n\n" + (f"{_quoted(said)}\n\n" if said else "")


def _attached(part: dict[str, Any]) -> str:
    kind = str(part.get("type"))
    inner = part.get(kind)
    named = inner.get("filename") or inner.get("url") if isinstance(inner, dict) else None
    return f"[{kind}{f': {named}' if named else ''}]"


def _fenced(text: str) -> str:
    """Return text in a fence that nothing in it can close."""
    longest = max((len(found) for found in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in re.split(r"\r\n|\r|\n", text))


def _plain(text: str) -> str:
    """Return text on one line, with what Markdown would read as markup escaped."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _time(microseconds: int) -> str:
    return f"{to_datetime(microseconds):%Y-%m-%d %H:%M} UTC"
