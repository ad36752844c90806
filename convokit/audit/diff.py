"""What tells two requests apart, and why the second could not be served from what a server had cached of the first.

A cache of prompts serves a common beginning: tools and schema, then the messages. So the first difference is what matters, and
its reason is looked for in what the requests are made of, not in their text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit.replay import Place, Rebuilt, find_call, rebuilt
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import PASSAGE, MessageRow
from convokit.domain.replay import Diff, Reason
from convokit.domain.text import dump_json
from convokit.errors import InvalidInput
from convokit.store import conversations, messages
from convokit.tokens.counter import choose_counter, count_message, count_schema, count_tools

_BEFORE_MESSAGES = ("tools", "response_format")
"""What servers put into the prompt before the messages."""
_EXCERPT = 160
_LEAD = 40
_MISSING = object()


@dataclass(slots=True)
class _Found:
    reason: Reason
    why: str
    place: str | None = None
    index: int | None = None
    values: tuple[Any, Any] = (_MISSING, _MISSING)


def diff(a: Place, b: Place) -> Callable[[Connection, str, UUID], Diff | None]:
    """Return the function that compares two calls of a conversation. Raises: InvalidInput when one of them is not named."""
    if a[0] is None or b[0] is None:
        raise InvalidInput("diff", "takes two turns, or two replays")
    return partial(_diff, a, b)


def _diff(a: Place, b: Place, connection: Connection, tenant: str, conversation_id: UUID) -> Diff | None:
    row = conversations.find(connection, tenant, conversation_id)
    if row is None:
        return None
    one, other = (rebuilt(connection, row, find_call(connection, row, 0, meant)) for meant in (a, b))
    common = _common(one.messages, other.messages)
    found = _first(connection, row, one, other, common)
    values = _shortened(*found.values)
    return Diff.model_construct(
        reason=found.reason,
        why=found.why,
        turns=(one.call.turn_id, other.call.turn_id),
        calls=(one.call.number, other.call.number),
        place=found.place,
        index=found.index,
        a=values[0],
        b=values[1],
        common_messages=common,
        common_tokens=_tokens(one, found, common),
    )


def _common(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> int:
    """Return how many messages both begin with."""
    alike = (_same(x, y) for x, y in zip(a, b, strict=False))
    return next((index for index, same in enumerate(alike) if not same), min(len(a), len(b)))


def _same(a: Any, b: Any) -> bool:
    """Whether two values are sent as the same bytes: Python takes 1, 1.0 and True for equal."""
    return a is b or (a is not _MISSING and b is not _MISSING and dump_json(a) == dump_json(b))


def _first(connection: Connection, row: ConversationRow, a: Rebuilt, b: Rebuilt, common: int) -> _Found:
    """Return the first difference, in the order in which things reach the prompt."""
    for made in (a, b):
        if not made.messages:
            return _Found("altered", f"the request of turn {made.call.turn_id} can no longer be put together")
    models = a.call.requested_model, b.call.requested_model
    if models[0] != models[1]:
        return _Found("model", f"another model: {models[0]}, then {models[1]}", "model", values=models)
    for name in _BEFORE_MESSAGES:
        values = a.parameters.get(name, _MISSING), b.parameters.get(name, _MISSING)
        if not _same(*values):
            what = "the tools" if name == "tools" else "the response's schema"
            return _Found(name, f"{what} changed, which servers put before the messages", name, values=values)  # type: ignore[arg-type]
    if common < min(len(a.messages), len(b.messages)):
        return _of_messages(connection, row, a, b, common)
    names = dict.fromkeys((*a.parameters, *b.parameters))
    for name in names:
        values = a.parameters.get(name, _MISSING), b.parameters.get(name, _MISSING)
        if not _same(*values):
            return _Found("parameter", f"the messages begin alike; the parameter {name} differs", name, values=values)
    if len(a.messages) == len(b.messages):
        return _Found("identical", "both requests are the same")
    more = max(a.messages, b.messages, key=len)[common]
    values = (more, _MISSING) if len(a.messages) > len(b.messages) else (_MISSING, more)
    why = "one request has all messages of the other, and more behind them"
    return _Found("continued", why, f"messages[{common}]", common, values)


def _of_messages(connection: Connection, row: ConversationRow, a: Rebuilt, b: Rebuilt, index: int) -> _Found:
    reason, why = _reason(connection, row, a, b)
    one, other = a.messages[index], b.messages[index]
    keys = [key for key in dict.fromkeys((*one, *other)) if not _same(one.get(key, _MISSING), other.get(key, _MISSING))]
    place = f"messages[{index}]"
    if len(keys) == 1:
        place += f".{keys[0]}"
        return _Found(reason, why, place, index, (one.get(keys[0], _MISSING), other.get(keys[0], _MISSING)))
    return _Found(reason, why, place, index, (one, other))


def _reason(connection: Connection, row: ConversationRow, a: Rebuilt, b: Rebuilt) -> tuple[Reason, str]:
    """Return why the messages differ, by what they are made of."""
    assert a.manifest is not None
    assert b.manifest is not None
    if a.prompt != b.prompt:
        return "developer_prompt", "the developer prompt changed"
    sent, also = ({each.seq: each for each in made.rows} for made in (a, b))
    for one, other in zip(a.rows, b.rows, strict=False):
        if one.seq != other.seq:
            return _other_row(connection, row, a, b, one, other, set(sent), set(also))
        if one.status == "redacted":
            return "redacted", f"message {one.seq} was redacted"
        if one.status == "partial" and a.manifest.partial != b.manifest.partial:
            return "partial", f"the policy about replies that broke off changed, and message {one.seq} did"
        if a.manifest.profile == b.manifest.profile and one.extra and '"audio"' in one.extra and _by_id(a) != _by_id(b):
            return "audio", "a spoken reply could no longer be named by its id, and is sent in words"
    if a.manifest.profile != b.manifest.profile or a.manifest.unsupported != b.manifest.unsupported:
        return "profile", "the server is spoken to in another way: its profile changed"
    return "altered", "the same messages are sent in another form"


def _by_id(made: Rebuilt) -> list[Any]:
    return [message["audio"] for message in made.messages if "audio" in message]


def _other_row(
    connection: Connection,
    row: ConversationRow,
    a: Rebuilt,
    b: Rebuilt,
    one: MessageRow,
    other: MessageRow,
    sent: set[int],
    also: set[int],
) -> tuple[Reason, str]:
    """Return why another message stands in the same place."""
    for each, there, made in ((one, also, b), (other, sent, a)):
        assert made.manifest is not None
        if each.seq in there:
            continue
        if each.status == PASSAGE:
            return "passages", f"message {each.seq} is a passage: it is sent with its own turn only"
        if each.status == "redacted":
            return "redacted", f"message {each.seq} was redacted, and is not sent any more"
        if each.status == "partial" and made.manifest.partial == "leave_out":
            return "partial", f"message {each.seq} broke off, and the policy leaves such replies out"
    earlier, later = sorted((a.rows[-1].seq, b.rows[-1].seq))
    if not messages.filter_on_path(connection, row.id, later, [earlier]):
        for each, made in ((one, b), (other, a)):
            if not messages.filter_on_path(connection, row.id, made.rows[-1].seq, [each.seq]):
                return "branch", f"another branch: the paths part before message {each.seq}"
    starts = _start(a), _start(b)
    if one.seq < starts[0] or other.seq < starts[1]:
        single = min(one.seq, other.seq)
        return (
            "selection",
            f"message {single} is sent from before the window by one of the two only: a pin, or a strategy",
        )
    if starts[0] != starts[1]:
        return "window", f"the window's start moved from message {starts[0]} to message {starts[1]}"
    return "selection", f"message {min(one.seq, other.seq)} is sent by one of the two only"


def _start(made: Rebuilt) -> int:
    assert made.manifest is not None
    return made.rows[0].seq if made.manifest.start is None else made.manifest.start


def _tokens(made: Rebuilt, found: _Found, common: int) -> int:
    """Return what both prompts begin with, counted the way a request is counted before it is sent."""
    if found.reason in ("model", *_BEFORE_MESSAGES) or made.manifest is None:
        return 0
    counter = choose_counter(made.manifest.profile)
    fixed = count_tools(counter, made.tools) + count_schema(counter, made.parameters.get("response_format"))
    return fixed + sum(count_message(counter, message) for message in made.messages[:common])


def _shortened(a: Any, b: Any) -> tuple[str | None, str | None]:
    """Return two values as text, cut to a little around where they begin to differ."""
    one, other = _words(a), _words(b)
    at = 0
    if one is not None and other is not None:
        pairs = zip(one, other, strict=False)
        at = next((index for index, (x, y) in enumerate(pairs) if x != y), min(len(one), len(other)))
    return _excerpt(one, at), _excerpt(other, at)


def _words(value: Any) -> str | None:
    if value is _MISSING:
        return None
    if isinstance(value, Mapping) and isinstance(value.get("content"), str) and set(value) <= {"role", "content"}:
        return f"{value['role']}: {value['content']}"
    return value if isinstance(value, str) else dump_json(value)


def _excerpt(text: str | None, at: int) -> str | None:
    if text is None or len(text) <= _EXCERPT:
        return text
    first = max(at - _LEAD, 0)
    end = first + _EXCERPT
    return f"{'…' if first else ''}{text[first:end]}{'…' if end < len(text) else ''}"
