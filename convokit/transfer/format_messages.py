"""Conversations as message arrays in the API's shape: one JSON array, or a line for each conversation.

A developer (or system) message at the beginning becomes the chat's own developer prompt, later ones stay messages. What the API
refuses in a message is refused here; what it refuses in an array (a call without its result, an empty message) is stored, and
left out of what is sent.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from convokit.context.validity import NAME
from convokit.domain.content import Content, validate_content
from convokit.domain.message import FUNCTION, INSTRUCTION_ROLES, ROLES, TOOL, USER, extract_text
from convokit.domain.text import dump_json, to_plain_json, validate_json, validate_text
from convokit.errors import BadRecord, InvalidInput, TooLarge
from convokit.settings import Limits
from convokit.transfer import reader
from convokit.transfer.importer import Values
from convokit.transfer.models import Draft, Incoming
from convokit.transfer.reader import Source, elements, strict_json
from convokit.transfer.row_checks import check_calls

_ROLES = frozenset(ROLES) - {FUNCTION}


def values(source: Source) -> Values:
    """Yield the file's conversations, each as its JSON value."""
    first = source.readline()
    while first and not first.strip():
        first = source.readline()
    try:
        strict_json(first)
    except (ValueError, RecursionError):
        if first.lstrip()[:1] == "[":
            yield from _document(source, first)
            return
    text = first
    while text:
        if text.strip():
            yield from _of_line(source, text)
        try:
            text = source.readline()
        except BadRecord as error:
            yield source.line, error
            text = " "


def _of_line(source: Source, text: str) -> Values:
    try:
        value = strict_json(text)
    except (ValueError, RecursionError) as error:
        yield source.line, source.bad(f"is not JSON: {getattr(error, 'msg', 'nested too deeply')}")
        return
    if _holds_conversations(value):
        yield from ((source.line, each) for each in value)
    else:
        yield source.line, value


def _document(source: Source, begun: str) -> Values:
    """Yield what an array over many lines holds: its conversations, or itself where it is one."""
    found = elements(source, begun)
    try:
        first = next(found, None)
        if first is None or not _holds_conversations([first[1]]):
            yield (1 if first is None else first[0]), [] if first is None else list(_one(source, first, found))
            return
        yield first
        yield from found
    except BadRecord as error:
        yield error.line or 1, error


def _one(source: Source, first: tuple[int, Any], found: Values) -> Iterator[Any]:
    """Yield the messages of the one conversation that a file is. Raises: BadRecord when it is too long for one record."""
    for _, value in itertools.chain([first], found):
        if source.done > reader.RECORD_CHARS:
            problem = f"one conversation is over {reader.RECORD_CHARS:,} characters long, the most there may be"
            raise source.bad(problem, first[0])
        yield value


def _holds_conversations(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, list) or (isinstance(first, Mapping) and "messages" in first)


class Arrays:
    """Makes conversations of message arrays. With a `key`, of one."""

    def __init__(self, limits: Limits, key: str | None) -> None:
        self._limits = limits
        self._key = key
        self._used = False

    def __call__(self, value: Any) -> Incoming:
        """Return the conversation of a value. Raises: InvalidInput."""
        facts: Mapping[str, Any] = value if isinstance(value, Mapping) else {"messages": value}
        given = facts.get("messages")
        if not isinstance(given, list):
            raise InvalidInput("messages", "must be a list of messages")
        if self._key is not None and self._used:
            raise InvalidInput(
                "key", "names one conversation, and this is the second in the file: import without a key"
            )
        self._used = True
        digest = hashlib.sha256(dump_json(to_plain_json("messages", given)).encode("utf-8")).hexdigest()
        incoming = Incoming(f"messages:0:{digest}")
        describe(incoming, facts, self._limits)
        incoming.key = self._key if self._key is not None else incoming.key
        for number, message in enumerate(given):
            self._add(incoming, f"messages[{number}]", message, first=number == 0)
        incoming.head = len(incoming.drafts) - 1 if incoming.drafts else None
        return incoming

    def _add(self, incoming: Incoming, place: str, message: Any, *, first: bool) -> None:
        if not isinstance(message, Mapping):
            raise InvalidInput(place, f"must be an object, not {type(message).__name__}")
        draft, content = draft_of(place, message, self._limits)
        if first and draft.role in INSTRUCTION_ROLES:
            words = draft.content if draft.parts is None else extract_text(draft.parts)
            incoming.developer_prompt = words or None
            return
        draft.parent = len(incoming.drafts) - 1 if incoming.drafts else None
        incoming.drafts.append(draft)
        incoming.blobs |= {blob.digest: blob for blob in content.blobs}


def describe(incoming: Incoming, facts: Mapping[str, Any], limits: Limits) -> None:
    """Put a record's key, subject, title and metadata into the conversation. Raises: InvalidInput, TooLarge."""
    for name in ("key", "subject", "title"):
        value = facts.get(name)
        if value is None or value == "":
            continue
        text = validate_text(name, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
        if len(text) > limits.key_chars:
            raise TooLarge(name, len(text), limits.key_chars, setting="Limits.key_chars", unit="characters")
        setattr(incoming, name, text)
    if facts.get("metadata") is not None:
        limit, setting = limits.metadata_bytes, "Limits.metadata_bytes"
        incoming.metadata = validate_json("metadata", facts["metadata"], limit=limit, setting=setting)


def draft_of(place: str, message: Mapping[str, Any], limits: Limits) -> tuple[Draft, Content]:
    """Return a message in the API's shape as a draft, and what it holds. Raises: InvalidInput naming the place."""
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidInput(f"{place}.role", f"{role!r} is not one of {', '.join(sorted(_ROLES))}")
    if message.get("function_call") is not None:
        raise InvalidInput(f"{place}.function_call", "is of an older API: write it as tool_calls")
    draft = Draft(role, None)
    content, refusal = _content(f"{place}.content", message.get("content"), role, limits)
    draft.content, draft.parts = content.text, content.parts
    draft.refusal = _text(f"{place}.refusal", message.get("refusal"), limits) or refusal
    draft.name = _text(f"{place}.name", message.get("name"), limits)
    if draft.name is not None and not NAME.fullmatch(draft.name):
        raise InvalidInput(f"{place}.name", f"{draft.name!r} is not 1 to 64 of A-Z a-z 0-9 _ and -")
    if role == TOOL:
        draft.tool_call_id = _text(f"{place}.tool_call_id", message.get("tool_call_id"), limits)
        if not draft.tool_call_id:
            raise InvalidInput(f"{place}.tool_call_id", "is missing: a tool's result names the call it answers")
    if message.get("tool_calls"):
        draft.tool_calls = _calls(f"{place}.tool_calls", message["tool_calls"], role, limits)
    return draft, content


def _text(place: str, value: Any, limits: Limits) -> str | None:
    if value is None:
        return None
    return validate_text(place, value, limit=limits.message_bytes, setting="Limits.message_bytes")


def _content(place: str, given: Any, role: str, limits: Limits) -> tuple[Content, str | None]:
    """Return content, and what is a refusal in it. Empty is no mistake: it is stored, and not sent."""
    if given is None or given == []:
        return Content(None), None
    if not isinstance(given, list):
        return Content(_text(place, given, limits)), None
    kinds = [part.get("type") if isinstance(part, Mapping) else "text" for part in given]
    refused = "".join(str(part["refusal"]) for part, kind in zip(given, kinds, strict=True) if kind == "refusal")
    rest = [part for part, kind in zip(given, kinds, strict=True) if kind != "refusal"]
    if role != USER and any(kind not in ("text", "refusal") for kind in kinds):
        raise InvalidInput(place, f"a message of role {role} holds text and nothing else")
    content = _moved(lambda: validate_content(rest, limits), place) if rest else Content(None)
    return content, _text(place, refused, limits) or None


def _moved(check: Callable[[], Content], place: str) -> Content:
    """Return what `check` returns; its errors name the place in the record."""
    try:
        return check()
    except TooLarge as error:
        raise TooLarge(place, error.size, error.limit, setting=error.setting) from None
    except InvalidInput as error:
        raise InvalidInput(
            place + error.field.removeprefix("message"), str(error).removeprefix(f"{error.field}: ")
        ) from None


def _calls(place: str, given: Any, role: str, limits: Limits) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise InvalidInput(place, "must be a list")
    calls = []
    for call in to_plain_json(place, given, max_number=2**64):
        made = {"type": "function", **call} if isinstance(call, dict) else {}
        body = made.get("function")
        if isinstance(body, dict) and not isinstance(body.get("arguments"), str):
            made["function"] = {**body, "arguments": dump_json(body.get("arguments") or {})}
        calls.append(made)
    try:
        check_calls({"role": role, "tool_calls": calls})
    except InvalidInput as error:
        raise InvalidInput(place, str(error).partition(": ")[2]) from None
    validate_text(place, dump_json(calls), limit=limits.message_bytes, setting="Limits.message_bytes")
    return calls
