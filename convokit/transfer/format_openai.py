"""Export fine-tuning data for the OpenAI API, one line for each conversation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from convokit.context.strategy import Item
from convokit.context.validity import find_problems, select_sendable
from convokit.domain.content import find_blob_digests, inline_blobs
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import ASSISTANT, DEVELOPER, PASSAGE, TOOL, USER, MessageRow, extract_text
from convokit.domain.text import dump_json
from convokit.store import blobs
from convokit.transfer import sql
from convokit.transfer.models import ExportChunk
from convokit.transfer.training_data import SAMPLE_KEYS, find_sample, find_weight

_MESSAGE_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name", "refusal")
_INCOMPLETE = ("partial", "redacted", "late")


def export_conversation(connection: Connection, row: ConversationRow) -> Iterator[ExportChunk]:
    """Yield the complete turns of the conversation's path as one line; nothing if no turn is complete."""
    instructions: _Instructions | None = None
    sample: dict[str, Any] | None = None
    for turn in _split_turns(sql.read_path_pages(connection, row.id, row.head_seq)):
        if sample is None:
            sample = find_sample(turn[0].extra)
        shapes = _build_turn(connection, row, turn)
        if not shapes:
            continue
        if instructions is None:
            instructions = _read_instructions(connection, row, sample)
            yield '{"messages":[', 0
            shapes = [*instructions.messages, *shapes]
            yield ",".join(dump_json(shape) for shape in shapes), len(shapes)
        else:
            yield "," + ",".join(dump_json(shape) for shape in shapes), len(shapes)
    if instructions is not None:
        yield "]" + "".join(f',"{name}":{value}' for name, value in instructions.options.items()) + "}\n", 0


@dataclass(frozen=True, slots=True)
class _Instructions:
    """The messages before the first turn, and the options of the sample as JSON."""

    messages: list[dict[str, Any]]
    options: dict[str, str]


def _read_instructions(connection: Connection, row: ConversationRow, sample: Mapping[str, Any]) -> _Instructions:
    """Return the conversation's own instructions, else those of the newest API call, else those of an imported sample."""
    settings = json.loads(row.settings) if row.settings else {}
    manifest = json.loads(sql.find_last_manifest(connection, row.id) or "{}")
    if "developer_prompt" in settings:
        prompt = settings["developer_prompt"]
    else:
        prompt = _find_prompt(connection, row.tenant, manifest.get("prompt"))
    messages = [{"role": DEVELOPER, "content": prompt}] if prompt else []
    imported = sample.get("instructions")
    if imported is not None and prompt in (None, extract_text(imported.get("content"))):
        messages = [imported]  # with the role that it had in its file
    options = {name: dump_json(sample[name]) for name in SAMPLE_KEYS if name in sample}
    tools = _find_prompt(connection, row.tenant, manifest.get("tools"))
    return _Instructions(messages, options | ({"tools": tools} if tools else {}))


def _find_prompt(connection: Connection, tenant: str, digest: str | None) -> str | None:
    return None if digest is None else blobs.find_prompt(connection, tenant, bytes.fromhex(digest))


def _split_turns(pages: Iterable[list[MessageRow]]) -> Iterator[list[MessageRow]]:
    """Yield the messages of each turn: a question and everything before the next one. Passages are left out.

    A question that came with tool results is part of the turn whose calls they answer.
    """
    turn: list[MessageRow] = []
    for page in pages:
        for row in page:
            if row.status == PASSAGE:
                continue
            is_beside_results = (
                bool(turn) and turn[-1].role == TOOL and row.turn_id is not None and turn[-1].turn_id == row.turn_id
            )
            if row.role == USER and turn and not is_beside_results:
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
    # An imported sample may end in tool calls: that the model calls them is what it teaches.
    ends_in_calls = turn[-1].seq == row.head_seq and turn[-1].turn_id is None and turn[-1].tool_calls is not None
    rows = turn[:-1] if ends_in_calls else turn
    items = [Item(each.seq, _build_message(each), 0, 0, each.status_in_context) for each in rows]
    sendable, _ = select_sendable(items, partial="leave_out")
    shapes = [item.shape for item in sendable]
    last = shapes[-1] if shapes else {}
    if find_problems(shapes):
        return []
    if ends_in_calls:
        shapes.append(_build_message(turn[-1]))
    elif last.get("role") != ASSISTANT or last.get("tool_calls"):
        return []
    digests = {digest for each in turn if each.parts is not None for digest in find_blob_digests(each.parts)}
    return inline_blobs(shapes, blobs.read_blobs(connection, row.id, digests)) if digests else shapes


def _build_message(row: MessageRow) -> dict[str, Any]:
    shape = row.as_wire()
    weight = find_weight(row.extra)
    return {key: shape[key] for key in _MESSAGE_KEYS if key in shape} | ({} if weight is None else {"weight": weight})
