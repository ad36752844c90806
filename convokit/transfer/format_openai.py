"""Export fine-tuning data for the OpenAI API, one line for each conversation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection

from convokit.context.strategy import Item
from convokit.context.validity import find_problems, select_sendable
from convokit.domain.content import find_blob_digests, inline_blobs
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, DEVELOPER, PASSAGE, USER, MessageRow
from convokit.domain.text import dump_json
from convokit.store import blobs
from convokit.transfer import sql
from convokit.transfer.models import ExportChunk

_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal")
_INCOMPLETE = ("partial", "redacted", "late")


def export_conversation(connection: Connection, row: ConversationRow) -> Iterator[ExportChunk]:
    """Yield the complete turns of the conversation's path as one line; nothing if no turn is complete."""
    prompt, tools = _read_instructions(connection, row)
    is_first = True
    for turn in _split_turns(sql.read_path_pages(connection, row.id, row.head_seq)):
        shapes = _build_turn(connection, row, turn)
        if not shapes:
            continue
        if is_first:
            yield '{"messages":[', 0
            if prompt:
                shapes.insert(0, {"role": DEVELOPER, "content": prompt})
        yield ("" if is_first else ",") + ",".join(dump_json(shape) for shape in shapes), len(shapes)
        is_first = False
    if not is_first:
        yield "]" + (f',"tools":{tools}' if tools else "") + "}\n", 0


def _read_instructions(connection: Connection, row: ConversationRow) -> tuple[str | None, str | None]:
    """Return the developer prompt and the tools (as JSON): the conversation's own, else those of the newest API call."""
    settings = json.loads(row.settings) if row.settings else {}
    manifest = json.loads(sql.find_last_manifest(connection, row.id) or "{}")
    if "developer_prompt" in settings:
        prompt = settings["developer_prompt"]
    else:
        prompt = _find_prompt(connection, row.tenant, manifest.get("prompt"))
    return prompt, _find_prompt(connection, row.tenant, manifest.get("tools"))


def _find_prompt(connection: Connection, tenant: str, digest: str | None) -> str | None:
    return None if digest is None else blobs.find_prompt(connection, tenant, bytes.fromhex(digest))


def _split_turns(pages: Iterable[list[MessageRow]]) -> Iterator[list[MessageRow]]:
    """Yield the messages of each turn: a question and everything before the next one. Passages are left out."""
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


def _build_turn(connection: Connection, row: ConversationRow, turn: list[MessageRow]) -> list[dict[str, Any]]:
    """Return the messages of a turn as the API accepts them; none if the turn has no complete reply."""
    # A reply to a redacted question would be trained as the answer to another one.
    if any(each.status in _INCOMPLETE or each.is_cut for each in turn):
        return []
    items = [Item(each.seq, _build_message(each), 0, 0, each.status) for each in turn]
    sendable, _ = select_sendable(items, partial="leave_out")
    shapes = [item.shape for item in sendable]
    last = shapes[-1] if shapes else {}
    if last.get("role") != ASSISTANT or last.get("tool_calls") or find_problems(shapes):
        return []
    digests = {digest for each in turn if each.parts is not None for digest in find_blob_digests(each.parts)}
    return inline_blobs(shapes, blobs.read_blobs(connection, row.id, digests)) if digests else shapes


def _build_message(row: MessageRow) -> dict[str, Any]:
    shape = row.as_wire()
    return {key: shape[key] for key in _MESSAGE_KEYS if key in shape}
