"""Convert messages in the API's shape into drafts of message rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convokit.context.validity import NAME
from convokit.domain.content import Blob, Content, validate_content
from convokit.domain.message import FUNCTION, ROLES, TOOL, USER
from convokit.domain.text import dump_json, to_plain_json, validate_json, validate_text
from convokit.errors import InvalidInput, TooLarge
from convokit.settings import Limits
from convokit.transfer.row_checks import check_tool_calls

# A function message belongs to an older API, like `function_call`.
_IMPORT_ROLES = sorted(frozenset(ROLES) - {FUNCTION})
# A server may refuse other keys of a tool call, and then every later request of the conversation.
_CALL_KEYS = frozenset({"id", "type", "function", "custom"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})


@dataclass(slots=True)
class MessageDraft:
    """A message to import. `parent` is an index into the drafts before it."""

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


@dataclass(slots=True)
class ConversationDraft:
    """A conversation to import. `origin` is the ref of its import entry: source, number of chain entries there, hash."""

    origin: str
    identity: str | None = None
    """A text that identifies the content, if `origin` does not. Without a key, a repeated import finds it by this."""
    key: str | None = None
    subject: str | None = None
    title: str | None = None
    metadata: str | None = None
    developer_prompt: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    messages: list[MessageDraft] = field(default_factory=list)
    head: int | None = None
    """The index of the branch head in `messages`."""
    blobs: dict[bytes, Blob] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    """The number of things that the draft does not have of its record, by their kind."""

    def set_fields(self, values: Mapping[str, Any], limits: Limits) -> None:
        """Set title and metadata from a record. Raises: InvalidInput, TooLarge."""
        title = values.get("title")
        if title is not None and title != "":
            self.title = validate_label("title", title, limits)
        if values.get("metadata") is not None:
            self.metadata = validate_json(
                "metadata", values["metadata"], limit=limits.metadata_bytes, setting="Limits.metadata_bytes"
            )

    def add_blobs(self, content: Content) -> None:
        """Keep the binaries of a message's content."""
        self.blobs |= {blob.digest: blob for blob in content.blobs}


def validate_label(field: str, value: object, limits: Limits) -> str:
    """Return a key, subject or title. Raises: InvalidInput, TooLarge."""
    # The limit is in characters, of at most 4 bytes each.
    text = validate_text(field, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
    if len(text) > limits.key_chars:
        raise TooLarge(field, len(text), limits.key_chars, setting="Limits.key_chars", unit="characters")
    return text


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
    if role != USER and any(kind not in ("text", "refusal") for kind in kinds):
        raise InvalidInput(path, f"may contain only text in a message of role {role}")
    content = _validate_parts(path, parts, limits) if parts else Content(None)
    return content, _read_text(path, refusal, limits) or None


def _validate_parts(path: str, parts: list[Any], limits: Limits) -> Content:
    # `validate_content` names the field "message": replace that by the path in the record.
    try:
        return validate_content(parts, limits)
    except TooLarge as error:
        raise TooLarge(path, error.size, error.limit, setting=error.setting) from None
    except InvalidInput as error:
        raise InvalidInput(
            path + error.field.removeprefix("message"), str(error).removeprefix(f"{error.field}: ")
        ) from None


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
