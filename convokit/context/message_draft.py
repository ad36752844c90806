"""Validate messages in the API's shape and convert them into rows.

Imports and `append` use the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convokit.context.validity import NAME, find_problems
from convokit.domain import hashchain
from convokit.domain.content import Content, validate_content
from convokit.domain.message import FUNCTION, ROLES, TOOL, USER, MessageRow
from convokit.domain.text import dump_json, to_plain_json, validate_text
from convokit.errors import InvalidInput
from convokit.settings import Limits
from convokit.tokens.counter import Counter, count_message

# A function message belongs to an older API, like `function_call`.
_IMPORT_ROLES = sorted(frozenset(ROLES) - {FUNCTION})
# A server may refuse other keys of a tool call, and then every later request of the conversation.
_CALL_KEYS = frozenset({"id", "type", "function", "custom"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})


@dataclass(slots=True)
class MessageDraft:
    """A message in the API's shape, validated and not stored yet. `parent` is an index into the drafts before it."""

    role: str
    parent: int | None
    content: str | None = None
    parts: list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    created_at: int | None = None
    status: str = "complete"
    extra: dict[str, Any] | None = None
    kind: str | None = None
    item: str | None = None
    """The JSON text of another program's item."""

    def drop_vendor_keys(self) -> int:
        """Drop the keys of a provider from the tool calls of a stranger's file, and return their number."""
        dropped = 0
        for call in self.tool_calls or ():
            for values, known in ((call, _CALL_KEYS), (call.get("function") or {}, _FUNCTION_KEYS)):
                unknown = [key for key in values if key not in known]
                dropped += len(unknown)
                for key in unknown:
                    del values[key]
        return dropped

    def drop_file_ids(self) -> int:
        """Put a text in the place of each file that is named by an id, and return their number.

        An id names a file in the account of the API key. A stranger's file must not send one of them to the model.
        """
        dropped = 0
        for index, part in enumerate(self.parts or ()):
            file_id = part["file"].get("file_id") if part.get("type") == "file" else None
            if file_id is not None and self.parts is not None:
                self.parts[index] = {"type": "text", "text": f"[file {file_id}]"}
                dropped += 1
        return dropped

    def has_content(self) -> bool:
        """Return whether the message has text, parts, a refusal or tool calls."""
        return any((self.content, self.parts, self.tool_calls, self.refusal))

    def as_wire(self) -> dict[str, Any]:
        """Return the message in the API's shape."""
        shape: dict[str, Any] = {"role": self.role, "content": self.content if self.parts is None else self.parts}
        for key in ("tool_calls", "tool_call_id", "name", "refusal"):
            if getattr(self, key) is not None:
                shape[key] = getattr(self, key)
        return shape

    def to_row(self, counter: Counter, created_at: int) -> MessageRow:
        """Return the row of the message, counted, without its position in a conversation."""
        tokens = count_message(counter, self.as_wire())
        return MessageRow(
            seq=0,
            parent_seq=None,
            run_start_seq=0,
            turn_id=None,
            role=self.role,
            status=self.status,
            tokens=tokens,
            counter=counter.name,
            path_tokens=tokens,
            created_at=created_at,
            content=self.content,
            parts=None if self.parts is None else dump_json(self.parts),
            tool_calls=None if self.tool_calls is None else dump_json(self.tool_calls),
            tool_call_id=self.tool_call_id,
            name=self.name,
            refusal=self.refusal,
            extra=None if self.extra is None else dump_json(self.extra),
            salt=hashchain.new_salt(),
            kind=self.kind,
            item=self.item,
        )


def draft_message(path: str, message: Mapping[str, Any], limits: Limits) -> tuple[MessageDraft, Content]:
    """Return a draft of a message in the API's shape, and its content.

    `path` names the message in the record, for errors. Raises: InvalidInput, TooLarge.
    """
    role = message.get("role")
    if not isinstance(role, str) or role not in _IMPORT_ROLES:
        raise InvalidInput(f"{path}.role", f"must be one of {', '.join(_IMPORT_ROLES)}, not {role!r}")
    if message.get("function_call") is not None:
        raise InvalidInput(f"{path}.function_call", "belongs to an older API; use tool_calls")
    draft = MessageDraft(role, None)
    content, refusal = _read_content(f"{path}.content", message.get("content"), role, limits)
    draft.content, draft.parts = content.text, content.parts
    draft.refusal = _read_text(f"{path}.refusal", message.get("refusal"), limits) or refusal
    draft.name = _read_text(f"{path}.name", message.get("name"), limits)
    if draft.name is not None and not NAME.fullmatch(draft.name):
        raise InvalidInput(f"{path}.name", f"must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -, not {draft.name!r}")
    if role == TOOL:
        draft.tool_call_id = _read_text(f"{path}.tool_call_id", message.get("tool_call_id"), limits)
        if not draft.tool_call_id:
            raise InvalidInput(f"{path}.tool_call_id", "is missing; a tool message needs the id of the call it answers")
    if message.get("tool_calls"):
        draft.tool_calls = _read_tool_calls(f"{path}.tool_calls", message["tool_calls"], role, limits)
    return draft, content


def _read_text(path: str, value: Any, limits: Limits) -> str | None:
    if value is None:
        return None
    return validate_text(path, value, limit=limits.message_bytes, setting="Limits.message_bytes")


def _read_content(path: str, value: Any, role: str, limits: Limits) -> tuple[Content, str | None]:
    """Return the content and the refusal. Empty content is allowed: it is stored, but not sent."""
    if value is None or value == []:
        return Content(None), None
    if not isinstance(value, list):
        return Content(_read_text(path, value, limits)), None
    kinds = [part.get("type") if isinstance(part, Mapping) else "text" for part in value]
    refusals = [part.get("refusal") for part, kind in zip(value, kinds, strict=True) if kind == "refusal"]
    if not all(isinstance(each, str) for each in refusals):
        raise InvalidInput(path, 'must have a text "refusal" in each part of type refusal')
    refusal = "".join(refusals)
    parts = [part for part, kind in zip(value, kinds, strict=True) if kind != "refusal"]
    if role not in (USER, TOOL) and any(kind not in ("text", "refusal") for kind in kinds):
        raise InvalidInput(path, f"may contain only text in a message of role {role}")
    content = validate_content(parts, limits, path) if parts else Content(None)
    return content, _read_text(path, refusal, limits) or None


def _read_tool_calls(path: str, value: Any, role: str, limits: Limits) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise InvalidInput(path, "must be a list")
    calls = []
    for each in to_plain_json(path, value, max_number=2**64):
        call = {"type": "function", **each} if isinstance(each, dict) else {}
        function = call.get("function")
        if isinstance(function, dict) and not isinstance(function.get("arguments"), str):
            call["function"] = {**function, "arguments": dump_json(function.get("arguments") or {})}
        calls.append(call)
    check_tool_calls(path, role, calls)
    validate_text(path, dump_json(calls), limit=limits.message_bytes, setting="Limits.message_bytes")
    return calls


def check_tool_calls(field: str, role: str, calls: Sequence[Any]) -> None:
    """Check the tool calls of a message. Raises: InvalidInput if they could not be sent, even with all their results."""
    if any(not isinstance(call, Mapping) for call in calls):
        raise InvalidInput(field, "each must be an object")
    message = {"role": role, "content": "-", "tool_calls": calls}
    results = [{"role": TOOL, "tool_call_id": call.get("id"), "content": "-"} for call in calls]
    # All calls have a result here, so a problem of message 0 is a problem of the calls.
    problems = [each for each in find_problems([message, *results]) if "[0]" in each]
    if problems:
        raise InvalidInput(field, problems[0].partition(": ")[2])
