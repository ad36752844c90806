"""Validate the messages that a caller writes, and convert them into rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from convokit.context.message_draft import MessageDraft, draft_message
from convokit.domain.content import Blob
from convokit.domain.message import (
    ASSISTANT,
    INSTRUCTION_ROLES,
    TOOL,
    USER,
    MessageRow,
    NewMessage,
    place_rows,
    to_microseconds,
)
from convokit.domain.text import dump_json, escape_surrogates, to_plain_json, validate_text
from convokit.errors import InvalidInput, TooLarge
from convokit.settings import Limits
from convokit.tokens.counter import Counter

_ROLES = (USER, ASSISTANT, TOOL)
_FIELDS = tuple(field.name for field in fields(NewMessage))
# Python writes integers of at most 4,300 digits as text, and reads JSON of about a thousand levels.
_MAX_NUMBER = 2**4096
_MAX_DEPTH = 200


@dataclass(frozen=True, slots=True, repr=False)
class NewMessages:
    """Validated messages, and the binaries that their parts refer to."""

    drafts: tuple[MessageDraft, ...]
    blobs: tuple[Blob, ...]


def validate_messages(given: object, limits: Limits) -> NewMessages:
    """Validate messages: dicts in the API's shape, or `NewMessage`. Raises: InvalidInput, TooLarge, naming index and field."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InvalidInput("messages", f"must be a list of messages, not {type(given).__name__}")
    drafts: list[MessageDraft] = []
    blobs: dict[bytes, Blob] = {}
    for index, message in enumerate(given):
        draft, new_blobs = _validate_message(f"messages[{index}]", message, limits)
        drafts.append(draft)
        blobs.update({blob.digest: blob for blob in new_blobs})
    return NewMessages(tuple(drafts), tuple(blobs.values()))


def _validate_message(path: str, message: object, limits: Limits) -> tuple[MessageDraft, Sequence[Blob]]:
    if isinstance(message, NewMessage):
        values: Mapping[str, Any] = {name: getattr(message, name) for name in _FIELDS}
    elif isinstance(message, Mapping):
        values = message
    else:
        raise InvalidInput(path, f"must be a dict or NewMessage, not {type(message).__name__}")
    kind = _validate_kind(f"{path}.kind", values.get("kind"), limits)
    _check_role(f"{path}.role", values.get("role"), kind)
    draft, content = draft_message(path, values, limits)
    draft.kind = kind
    draft.item = _validate_item(f"{path}.item", values.get("item"), kind)
    draft.drop_vendor_keys()
    if draft.role == TOOL and draft.content is None and draft.parts is None:
        draft.content = ""  # a function that returned nothing; the API allows no null here
    elif draft.role != TOOL and values.get("tool_call_id"):
        raise InvalidInput(f"{path}.tool_call_id", f"belongs to a message of role tool, not {draft.role}")
    elif draft.role != TOOL and kind is None and not draft.has_content():
        raise InvalidInput(f"{path}.content", "is empty: pass text or content parts")
    if values.get("created_at") is not None:
        draft.created_at = to_microseconds(f"{path}.created_at", values["created_at"])
        if draft.created_at < 0:
            raise InvalidInput(f"{path}.created_at", f"{values['created_at']} is before 1970")
    _check_size(path, draft, limits)
    return draft, content.blobs


def _check_role(path: str, role: object, kind: str | None) -> None:
    if role in INSTRUCTION_ROLES and kind is None:
        raise InvalidInput(
            path, f"{role!r} needs a kind, and is never sent; developer_prompt holds what the model is told"
        )
    allowed = _ROLES if kind is None else (*_ROLES, *INSTRUCTION_ROLES)
    if role not in allowed:
        raise InvalidInput(path, "is missing" if role is None else f"must be one of {', '.join(allowed)}, not {role!r}")


def _validate_kind(path: str, value: object, limits: Limits) -> str | None:
    if value is None:
        return None
    kind = validate_text(path, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
    if not kind:
        raise InvalidInput(path, "is empty: name the program that the item belongs to, or pass None")
    if len(kind) > limits.key_chars:
        raise TooLarge(path, len(kind), limits.key_chars, setting="Limits.key_chars", unit="characters")
    return kind


def _validate_item(path: str, value: object, kind: str | None) -> str | None:
    """Return an item as JSON text. It holds any text, because JSON escapes what the databases cannot store."""
    if value is None:
        return None
    if kind is None:
        raise InvalidInput(path, "needs a kind, which names the program that the item belongs to")
    plain = to_plain_json(path, value, max_depth=_MAX_DEPTH, max_number=_MAX_NUMBER, any_text=True)
    return escape_surrogates(dump_json(plain))


def _check_size(path: str, draft: MessageDraft, limits: Limits) -> None:
    """Check the whole message: its parts were checked one by one."""
    texts = [draft.content, draft.refusal, draft.item]
    texts += [None if each is None else dump_json(each) for each in (draft.parts, draft.tool_calls)]
    size = sum(len(text.encode()) for text in texts if text is not None)
    if size > limits.message_bytes:
        field = path if draft.item is None else f"{path}.item"
        raise TooLarge(field, size, limits.message_bytes, setting="Limits.message_bytes")


def make_rows(new: NewMessages, counter: Counter, now_us: int) -> list[MessageRow]:
    """Return the rows of new messages, counted, without positions. No row is newer than `now_us`."""
    return [
        draft.to_row(counter, now_us if draft.created_at is None else min(draft.created_at, now_us))
        for draft in new.drafts
    ]


def place_new_rows(rows: Sequence[MessageRow], last_seq: int, parent: MessageRow | None) -> list[MessageRow]:
    """Return copies of the rows of `make_rows` behind `parent`, with the tokens of their path."""
    placed = [replace(row) for row in rows]
    place_rows(placed, last_seq, parent)
    before = 0 if parent is None else parent.path_tokens
    for row in placed:
        row.path_tokens = before = before + row.tokens
    return placed
