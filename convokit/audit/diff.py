"""Find the first difference between two requests, and the reason for it.

A server's prompt cache serves the common beginning of two prompts: tools and response schema, then the messages. So the first
difference decides. Its reason follows from the rows that the requests are made of, not from their text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit.call_selection import CallSelector, find_selected_calls, select_call
from convokit.audit.replay import RebuiltRequest, rebuild_requests
from convokit.completion.effects import Flow, read_flow
from convokit.completion.saved_reply import TurnLike
from convokit.completion.state import ChatRef, KitState, identify_flow, not_found
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import PASSAGE, MessageRow
from convokit.domain.stored_request import Diff, Reason
from convokit.domain.text import dump_json
from convokit.errors import InvalidInput
from convokit.store import conversations, messages
from convokit.tokens.counter import choose_counter, count_message, count_schema, count_tools

_BEFORE_MESSAGES = ("tools", "response_format")  # servers put these into the prompt before the messages
_EXCERPT_CHARS = 160
_CHARS_BEFORE_DIFFERENCE = 40
_ABSENT = object()


@dataclass(slots=True)
class _Difference:
    reason: Reason
    why: str
    place: str | None = None
    index: int | None = None
    values: tuple[Any, Any] = (_ABSENT, _ABSENT)


def diff_flow(kit: KitState, chat: ChatRef, a: TurnLike, b: TurnLike) -> Flow[Diff]:
    """Compare the requests of two calls of a conversation. Raises: InvalidInput, NotFound."""
    selectors = select_call(a), select_call(b)
    if any(selector.turn_id is None for selector in selectors):
        raise InvalidInput("diff", "takes two turns, or two replays")
    conversation_id = yield from identify_flow(kit, chat)
    diff = yield from read_flow(_read_diff, kit.tenant, conversation_id, *selectors)
    if diff is None:
        raise not_found(chat)
    return diff


def _read_diff(
    connection: Connection, tenant: str, conversation_id: UUID, a: CallSelector, b: CallSelector
) -> Diff | None:
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    calls = [each.call for each in find_selected_calls(connection, row, [a, b])]
    first, second = rebuild_requests(connection, row, calls)
    common = _count_common_messages(first.messages, second.messages)
    difference = _find_difference(connection, row, first, second, common)
    excerpts = _shorten_pair(*difference.values)
    return Diff.model_construct(
        reason=difference.reason,
        why=difference.why,
        turns=(first.call.turn_id, second.call.turn_id),
        calls=(first.call.number, second.call.number),
        place=difference.place,
        index=difference.index,
        a=excerpts[0],
        b=excerpts[1],
        common_messages=common,
        common_tokens=_count_common_tokens(first, difference, common),
        cached_tokens=second.call.cached_tokens,
    )


def _count_common_messages(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> int:
    same = (_is_same(x, y) for x, y in zip(a, b, strict=False))
    return next((index for index, is_same in enumerate(same) if not is_same), min(len(a), len(b)))


def _is_same(a: Any, b: Any) -> bool:
    # Compares what is sent: 1, 1.0 and True are equal in Python, and different in JSON.
    return a is b or (a is not _ABSENT and b is not _ABSENT and dump_json(a) == dump_json(b))


def _find_difference(
    connection: Connection, row: ConversationRow, a: RebuiltRequest, b: RebuiltRequest, common: int
) -> _Difference:
    """Return the first difference, in the order in which a server builds its prompt."""
    for request in (a, b):
        if not request.messages:
            return _Difference("altered", f"the request of turn {request.call.turn_id} can no longer be rebuilt")
    models = a.call.requested_model, b.call.requested_model
    if models[0] != models[1]:
        return _Difference("model", f"another model: {models[0]}, then {models[1]}", "model", values=models)
    for name in _BEFORE_MESSAGES:
        values = a.parameters.get(name, _ABSENT), b.parameters.get(name, _ABSENT)
        if not _is_same(*values):
            subject = "the tools" if name == "tools" else "the response's schema"
            why = f"{subject} changed, which servers put before the messages"
            return _Difference(name, why, name, values=values)  # type: ignore[arg-type]
    if common < min(len(a.messages), len(b.messages)):
        return _compare_messages(connection, row, a, b, common)
    for name in dict.fromkeys((*a.parameters, *b.parameters)):
        values = a.parameters.get(name, _ABSENT), b.parameters.get(name, _ABSENT)
        if not _is_same(*values):
            why = f"the messages begin alike; the parameter {name} differs"
            return _Difference("parameter", why, name, values=values)
    if len(a.messages) == len(b.messages):
        return _Difference("identical", "both requests are the same")
    more = max(a.messages, b.messages, key=len)[common]
    values = (more, _ABSENT) if len(a.messages) > len(b.messages) else (_ABSENT, more)
    why = "one request has all messages of the other, and more behind them"
    return _Difference("continued", why, f"messages[{common}]", common, values)


def _compare_messages(
    connection: Connection, row: ConversationRow, a: RebuiltRequest, b: RebuiltRequest, index: int
) -> _Difference:
    reason, why = _explain_messages(connection, row, a, b)
    one, other = a.messages[index], b.messages[index]
    keys = [
        key for key in dict.fromkeys((*one, *other)) if not _is_same(one.get(key, _ABSENT), other.get(key, _ABSENT))
    ]
    place = f"messages[{index}]"
    if len(keys) == 1:
        values = one.get(keys[0], _ABSENT), other.get(keys[0], _ABSENT)
        return _Difference(reason, why, f"{place}.{keys[0]}", index, values)
    return _Difference(reason, why, place, index, (one, other))


def _explain_messages(
    connection: Connection, row: ConversationRow, a: RebuiltRequest, b: RebuiltRequest
) -> tuple[Reason, str]:
    """Return why the messages differ, from the rows and settings that they are made of."""
    assert a.manifest is not None
    assert b.manifest is not None
    if a.prompt != b.prompt:
        return "developer_prompt", "the developer prompt changed"
    for one, other in zip(a.rows, b.rows, strict=False):
        if one.seq != other.seq:
            return _explain_other_message(connection, row, a, b, one, other)
        if one.status == "redacted":
            return "redacted", f"message {one.seq} was redacted"
        if one.status == "partial" and a.manifest.partial != b.manifest.partial:
            return "partial", f"the policy about replies that broke off changed, and message {one.seq} broke off"
        has_audio = a.manifest.profile == b.manifest.profile and one.extra and '"audio"' in one.extra
        if has_audio and _list_audio_ids(a) != _list_audio_ids(b):
            return "audio", "a spoken reply expired at the server, so its transcript is sent instead of its id"
    if a.manifest.profile != b.manifest.profile or a.manifest.unsupported != b.manifest.unsupported:
        return "profile", "the server's profile changed, so the same messages are sent in another form"
    versions = a.manifest.renderer, b.manifest.renderer
    by = f", by versions {versions[0]} and {versions[1]} of the renderer" if versions[0] != versions[1] else ""
    return "altered", f"the same messages are sent in another form{by}"


def _list_audio_ids(request: RebuiltRequest) -> list[Any]:
    return [message["audio"] for message in request.messages if "audio" in message]


def _explain_other_message(
    connection: Connection,
    row: ConversationRow,
    a: RebuiltRequest,
    b: RebuiltRequest,
    one: MessageRow,
    other: MessageRow,
) -> tuple[Reason, str]:
    """Return why `a` sends message `one` where `b` sends message `other`."""
    for message, elsewhere in ((one, b), (other, a)):
        assert elsewhere.manifest is not None
        if any(each.seq == message.seq for each in elsewhere.rows):
            continue
        if message.status == PASSAGE:
            return "passages", f"message {message.seq} is a passage: it is sent with its own turn only"
        if message.status == "redacted":
            return "redacted", f"message {message.seq} was redacted, and is not sent any more"
        if message.status == "partial" and elsewhere.manifest.partial == "leave_out":
            return "partial", f"message {message.seq} broke off, and the policy leaves such replies out"
    # Two requests of one path: the last message of the earlier one is on the path of the later one.
    earlier, later = sorted((a.rows[-1].seq, b.rows[-1].seq))
    if not messages.filter_on_path(connection, row.id, later, [earlier]):
        for message, elsewhere in ((one, b), (other, a)):
            if not messages.filter_on_path(connection, row.id, elsewhere.rows[-1].seq, [message.seq]):
                return "branch", f"another branch: the paths part before message {message.seq}"
    starts = _find_window_start(a), _find_window_start(b)
    seq = min(one.seq, other.seq)
    if one.seq < starts[0] or other.seq < starts[1]:
        why = f"message {seq} is sent from before the window by only one of the two: a pin, or a strategy"
        return "selection", why
    if starts[0] != starts[1]:
        return "window", f"the window's start moved from message {starts[0]} to message {starts[1]}"
    return "selection", f"message {seq} is sent by only one of the two"


def _find_window_start(request: RebuiltRequest) -> int:
    assert request.manifest is not None
    return request.rows[0].seq if request.manifest.start is None else request.manifest.start


def _count_common_tokens(request: RebuiltRequest, difference: _Difference, common: int) -> int:
    """Return the tokens of the common beginning, as they are counted before a request is sent."""
    if difference.reason in ("model", *_BEFORE_MESSAGES) or request.manifest is None:
        return 0
    counter = choose_counter(request.manifest.profile)
    fixed = count_tools(counter, request.tools) + count_schema(counter, request.parameters.get("response_format"))
    return fixed + sum(count_message(counter, message) for message in request.messages[:common])


def _shorten_pair(a: Any, b: Any) -> tuple[str | None, str | None]:
    """Return two values as text, cut to the characters around their first difference."""
    one, other = _to_text(a), _to_text(b)
    start = 0
    if one is not None and other is not None:
        pairs = zip(one, other, strict=False)
        start = next((index for index, (x, y) in enumerate(pairs) if x != y), min(len(one), len(other)))
    return _cut_around(one, start), _cut_around(other, start)


def _to_text(value: Any) -> str | None:
    if value is _ABSENT:
        return None
    if isinstance(value, Mapping) and isinstance(value.get("content"), str) and set(value) <= {"role", "content"}:
        return f"{value['role']}: {value['content']}"
    return value if isinstance(value, str) else dump_json(value)


def _cut_around(text: str | None, difference: int) -> str | None:
    if text is None or len(text) <= _EXCERPT_CHARS:
        return text
    first = max(difference - _CHARS_BEFORE_DIFFERENCE, 0)
    end = first + _EXCERPT_CHARS
    return f"{'…' if first else ''}{text[first:end]}{'…' if end < len(text) else ''}"
