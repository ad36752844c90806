"""Prepare messages for a page, with their calls and results."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from convokit import Call, ChainEntry, Message, TurnRecord
from convokit.viewer.page_size import measure, shorten

_BLOB = "blob:"
_MAX_PART_CHARS = 300


@dataclass(frozen=True, slots=True)
class ToolCallView:
    """A tool call of a reply."""

    id: str
    name: str
    arguments: str
    """Indented, if they are JSON."""
    result: int | None
    """The seq of the result, if it is on the page."""


@dataclass(frozen=True, slots=True)
class PartView:
    """A part of a message's content. `kind` is "text", "image", "link", "audio", "file" or "other"."""

    kind: str
    text: str = ""
    """The text, the URL, the name of the file, or JSON."""
    digest: str | None = None
    """The digest of the binary."""


class Version(NamedTuple):
    """The place of a message among its versions, from 1, with the seqs of the version before and after it."""

    number: int
    total: int
    previous: int | None
    following: int | None


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message as the page shows it."""

    message: Message
    parts: list[PartView]
    calls: list[ToolCallView] = field(default_factory=list)
    asked_by: int | None = None
    """The seq of the message whose tool call this one answers, if it is on the page."""
    turn: TurnRecord | None = None
    call: Call | None = None
    """The call that brought this reply. None if that is not known for sure."""
    removal: ChainEntry | None = None
    compared_turn: UUID | None = None
    """The turn before it on the page, whose request can be compared with that of this reply."""

    @property
    def version(self) -> Version | None:
        """The place of the message among its versions. None: there is no other version."""
        seqs = self.message.version_seqs
        if not seqs:
            return None
        # The passages of a question are written right before it.
        index = bisect_right(seqs, self.message.seq) - 1
        following = seqs[index + 1] if index + 1 < len(seqs) else None
        return Version(index + 1, len(seqs), seqs[index - 1] if index else None, following)

    @property
    def is_folded(self) -> bool:
        """Whether the message is shown closed: a passage or a note of another program."""
        return self.message.status == "passage" or self.message.role in ("system", "developer")


def view_messages(
    messages: Sequence[Message], turns: Sequence[TurnRecord] = (), removals: Sequence[ChainEntry] = ()
) -> list[MessageView]:
    """Return the messages of a page with what belongs to each."""
    by_id = {turn.id: turn for turn in turns}
    by_ref = {removal.ref: removal for removal in removals}
    asking, results = _link_tool_calls(messages)
    views = []
    previous: UUID | None = None
    for message in messages:
        turn = by_id.get(message.turn_id) if message.turn_id is not None else None
        call = find_call(message, turn)
        views.append(
            MessageView(
                message,
                list_parts(message.content),
                [_view_call(call, results) for call in message.tool_calls or ()],
                asking.get(message.seq),
                turn,
                call,
                by_ref.get(message.id) or by_ref.get("*") if message.status == "redacted" else None,
                previous if call is not None else None,
            )
        )
        if turn is not None and call is not None:
            previous = turn.id
    return views


def _link_tool_calls(messages: Sequence[Message]) -> tuple[dict[int, int], dict[str, int]]:
    """Return the asking message by the seq of its result, and the seq of the result by the id of the call."""
    asked: dict[str, int] = {}
    asking: dict[int, int] = {}
    results: dict[str, int] = {}
    for message in messages:
        for call in message.tool_calls or ():
            asked[str(call.get("id"))] = message.seq
        if message.tool_call_id is not None and message.tool_call_id in asked:
            asking[message.seq] = asked[message.tool_call_id]
            results[message.tool_call_id] = message.seq
    return asking, results


def _view_call(call: Mapping[str, Any], results: Mapping[str, int]) -> ToolCallView:
    function = call.get("function") or call.get("custom") or {}
    arguments = function.get("arguments", function.get("input", ""))
    id_ = str(call.get("id", ""))
    return ToolCallView(id_, str(function.get("name", "?")), indent_json(str(arguments)), results.get(id_))


def indent_json(text: str) -> str:
    """Return JSON on several lines; any other text as it is."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return text


def find_call(message: Message, turn: TurnRecord | None) -> Call | None:
    """Return the call that brought a reply: the last one that was answered, for the reply that ended its turn."""
    if turn is None or turn.reply != message.id:
        return None
    answered = [call for call in turn.calls if call.state in ("ok", "late")]
    return next(reversed(answered or turn.calls), None)


def list_parts(content: str | list[dict[str, Any]] | None) -> list[PartView]:
    """Return the parts of a message's content."""
    if isinstance(content, str):
        return [PartView("text", content)] if content else []
    return [_view_part(part) for part in content or ()]


def _view_part(part: dict[str, Any]) -> PartView:
    kind = part.get("type")
    if kind == "text":
        return PartView("text", str(part.get("text", "")))
    if kind == "image_url":
        url = str((part.get("image_url") or {}).get("url", ""))
        return PartView("image", digest=url.removeprefix(_BLOB)) if url.startswith(_BLOB) else PartView("link", url)
    if kind == "input_audio":
        data = str((part.get("input_audio") or {}).get("data", ""))
        if data.startswith(_BLOB):
            return PartView("audio", digest=data.removeprefix(_BLOB))
    if kind == "file":
        file = part.get("file") or {}
        data, name = str(file.get("file_data", "")), str(file.get("filename") or file.get("file_id") or "")
        if data.startswith(_BLOB):
            return PartView("file", name, data.removeprefix(_BLOB))
        return PartView("file", name)
    return PartView("other", json.dumps(part, ensure_ascii=False, indent=2))


def measure_message(message: Message) -> int:
    """Return the bytes that the texts of a message take on a page."""
    texts = [part.text for part in list_parts(message.content)]
    texts += [_view_call(call, {}).arguments for call in message.tool_calls or ()]
    texts += [message.refusal or "", dump_pretty(message.item) if message.kind else ""]
    return sum(measure(text) for text in texts)


def measure_sent_message(sent: Mapping[str, Any]) -> int:
    """Return the bytes that the texts of a message of a request take on a page."""
    return sum(measure(text) for text in (extract_sent_text(sent), *map(dump_pretty, sent.get("tool_calls") or ())))


def extract_sent_text(sent: Mapping[str, Any]) -> str:
    """Return the text of a message of a request. Its binaries are named by their type and size."""
    content = sent.get("content")
    if isinstance(content, list):
        return "\n".join(_describe_sent_part(part) for part in content)
    return shorten(content or str(sent.get("refusal") or ""))


def _describe_sent_part(part: Mapping[str, Any]) -> str:
    if part.get("type") == "text":
        return shorten(str(part.get("text", "")))
    encoded = dump_pretty(part)
    return encoded if len(encoded) <= _MAX_PART_CHARS else f"{encoded[:_MAX_PART_CHARS]}… ({len(encoded):,})"


def dump_pretty(value: Any) -> str:
    """Return JSON on several lines. Characters of other scripts stay as they are."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)
