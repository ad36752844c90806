"""Define roles and messages: the stored row and the public value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain import hashchain
from convokit.domain.finish_reason import classify_finish_reason
from convokit.domain.ids import format_message_id
from convokit.errors import InvalidInput

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]
"""The roles of the Chat Completions API."""
DEVELOPER: Final = "developer"
SYSTEM: Final = "system"
USER: Final = "user"
ASSISTANT: Final = "assistant"
TOOL: Final = "tool"
FUNCTION: Final = "function"
"""The role of a function's result. The API has replaced it by `tool`."""
ROLES: tuple[Role, ...] = get_args(Role)
INSTRUCTION_ROLES: tuple[Role, ...] = (DEVELOPER, SYSTEM)
"""The roles of instructions. OpenAI models before o1 take `system`, later ones `developer`."""
Status = Literal["complete", "partial", "late", "redacted", "passage", "summary"]
PASSAGE = "passage"
"""The status of a text that was retrieved for one question. It is sent with the turn of that question only."""
SUMMARY = "summary"
"""The status of a rolling summary. It is a child of the last message that it summarizes, and on no branch."""
NOTE = "note"
"""The status of an item in a context whose message is a note (`MessageRow.is_note`). No row is stored with it."""
FINISH_REASON_KEY = "finish_reason"
"""The key in `extra` that marks a reply whose finish reason does not say that it is complete."""


@dataclass(slots=True)
class MessageRow:
    """A row of the message table, with its columns in their order. A row never changes, except by redaction."""

    seq: int
    parent_seq: int | None
    run_start_seq: int
    turn_id: UUID | None
    role: str
    status: str
    tokens: int
    counter: str
    path_tokens: int
    created_at: int
    content: str | None = None
    parts: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    extra: str | None = None
    window_from_seq: int | None = None
    window_rule: int | None = None
    window_tokens: int | None = None
    window_counted: int | None = None
    salt: bytes | None = None
    kind: str | None = None
    item: str | None = None
    """The last column: the rows of a window are read without it."""

    def chained_values(self) -> list[object]:
        """Return the values that the hash chain commits to."""
        values = [getattr(self, name) for name in CHAINED_COLUMNS]
        # Older rows have neither column, and their commitments must stay what they were.
        return values if self.kind is None and self.item is None else [*values, self.kind, self.item]

    def hash_input(self) -> hashchain.HashInput:
        assert self.salt is not None
        return hashchain.HashInput(
            "message", str(self.seq), hashchain.compute_commitment(self.salt, self.chained_values())
        )

    @property
    def is_passage(self) -> bool:
        """Whether the message is a passage. A redacted summary counts as one too: neither is part of the message tree."""
        # Redaction overwrites the status. A count of 0 tokens still tells passages and summaries from questions.
        return self.status == PASSAGE or (self.status == "redacted" and self.role == USER and self.tokens == 0)

    @property
    def is_question(self) -> bool:
        """Whether a turn answers this message."""
        return self.role == USER and self.status != SUMMARY and not self.is_passage

    @property
    def is_note(self) -> bool:
        """Whether the message is another program's instruction. It is kept for that program and never sent."""
        return self.kind is not None and self.role in INSTRUCTION_ROLES

    @property
    def status_in_context(self) -> str:
        """The status that decides whether a request contains the message."""
        return NOTE if self.is_note else self.status

    @property
    def is_cut(self) -> bool:
        """Whether the message is a reply that was stored although it is not whole: cut at a length limit, or filtered."""
        if self.extra is None or FINISH_REASON_KEY not in self.extra:
            return False
        reason = json.loads(self.extra)["keys"].get(FINISH_REASON_KEY)
        return isinstance(reason, str) and classify_finish_reason(reason) in ("cut", "filtered", "failed")

    def as_wire(self) -> dict[str, Any]:
        """Return the message in the shape of the API. The key `extra` holds what only its own provider gets back."""
        shape: dict[str, Any] = {"role": self.role}
        shape["content"] = json.loads(self.parts) if self.parts is not None else self.content
        if self.tool_calls is not None:
            shape["tool_calls"] = json.loads(self.tool_calls)
        for key in ("tool_call_id", "name", "refusal"):
            value = getattr(self, key)
            if value is not None:
                shape[key] = value
        if self.extra is not None:
            shape["extra"] = extra = json.loads(self.extra)
            if extra["keys"].get("audio"):
                shape["audio"] = extra["keys"].pop("audio")
        return shape


_UNCHAINED = ("salt", "window_tokens", "window_counted")
"""Columns that the chain does not commit to. The counts of the window came with revision 0002, and older chains lack them."""
FOREIGN_COLUMNS = ("kind", "item")
"""Columns that the chain commits to where one of them is set. They came with revision 0003."""
CHAINED_COLUMNS = tuple(name for name in MessageRow.__slots__ if name not in (*_UNCHAINED, *FOREIGN_COLUMNS))


class Parting(NamedTuple):
    """A place where a path parts: the fields `parts_at` and `version_seqs` of a message."""

    parts_at: int
    version_seqs: tuple[int, ...]


class Message(BaseModel):
    """One stored message. `text` is its text in any case, `content` what was sent; `created_at` is UTC.

    `kind` names the program that wrote it by `append`, and `item` is what that program kept with it.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    seq: int
    parent_seq: int | None = None
    parts_at: int | None = None
    """The seq of the message that this one and at least one other message follow; 0 is before the first message.
    `chat.children(message.parts_at)` lists these versions. None: there is no other version. Only `messages` and `history` fill
    it."""
    version_seqs: tuple[int, ...] = ()
    """The seqs of these versions in the order of writing, this one among them. A question with passages has the seq of its
    first passage. Empty where `parts_at` is None."""
    stands_for: tuple[int, int] | None = None
    """Of a summary: the first and the last seq of the messages that it replaces in later windows. Only `log` fills it."""
    turn_id: UUID | None = None
    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    kind: str | None = None
    item: Any = None
    status: Status = "complete"
    tokens: int = 0
    created_at: datetime

    @property
    def text(self) -> str:
        """The joined text parts, else the refusal, else an empty text."""
        return extract_text(self.content) or self.refusal or ""

    @classmethod
    def from_row(cls, conversation_id: UUID, row: MessageRow) -> Message:
        """Convert a stored row. The values are not validated again."""
        return cls._construct(format_message_id(conversation_id, row.seq), row)

    @classmethod
    def from_rows(
        cls,
        conversation_id: UUID,
        rows: Sequence[MessageRow],
        partings: Mapping[int, Parting] | None = None,
        spans: Mapping[int, tuple[int, int]] | None = None,
    ) -> list[Message]:
        """Convert stored rows. `partings` and `spans` are by seq: where the path parts, and what summaries stand for."""
        prefix = format_message_id(conversation_id, 0)[:-1]  # formatting a UUID costs more than the rest of the id
        parted, summed = partings or {}, spans or {}
        return [cls._construct(f"{prefix}{row.seq}", row, parted.get(row.seq), summed.get(row.seq)) for row in rows]

    @classmethod
    def _construct(
        cls, id_: str, row: MessageRow, parting: Parting | None = None, span: tuple[int, int] | None = None
    ) -> Message:
        # `model_construct` does the same with a loop over the fields, which takes four times as long.
        message = object.__new__(cls)
        values = {
            "id": id_,
            "seq": row.seq,
            "parent_seq": row.parent_seq,
            "parts_at": None if parting is None else parting.parts_at,
            "version_seqs": () if parting is None else parting.version_seqs,
            "stands_for": span,
            "turn_id": row.turn_id,
            "role": row.role,
            "content": row.content if row.parts is None else json.loads(row.parts),
            "tool_calls": None if row.tool_calls is None else json.loads(row.tool_calls),
            "tool_call_id": row.tool_call_id,
            "name": row.name,
            "refusal": row.refusal,
            "kind": row.kind,
            "item": None if row.item is None else json.loads(row.item),
            "status": row.status,
            "tokens": row.tokens,
            "created_at": to_datetime(row.created_at),
        }
        _set(message, "__dict__", values)
        _set(message, "__pydantic_fields_set__", _MESSAGE_FIELDS)
        _set(message, "__pydantic_extra__", None)
        _set(message, "__pydantic_private__", None)
        return message


_set = object.__setattr__  # the model is frozen
_MESSAGE_FIELDS = set(Message.model_fields)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that `append` writes.

    Args:
        role: "user", "assistant" or "tool". With a `kind` also "system" or "developer": such a note is kept and never sent.
        content: Text or a list of content parts. It may be empty beside tool calls, with a `kind`, and as a tool's result.
        tool_calls: The calls of an assistant message, in the API's shape.
        tool_call_id: The call that a tool message answers.
        name: The participant's name, as the API has it.
        created_at: When the message was written, with a time zone. Default, and at most: now. It orders nothing.
        kind: The program that `item` belongs to, and the version of its format, such as "openai-agents/1".
        item: The message as that program has it, a JSON value. It comes back as `Message.item` and is never sent.

    >>> NewMessage("assistant", "Hello. How can I help?").role
    'assistant'
    """

    role: str
    content: str | Sequence[Mapping[str, Any] | str] | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    created_at: datetime | None = None
    kind: str | None = None
    item: Any = None


def place_rows(rows: Sequence[MessageRow], last_seq: int, parent: MessageRow | None, *, chained: bool = True) -> None:
    """Give new rows their position behind the conversation's last message.

    The first row follows `parent`. The others follow each other if `chained`, else all follow `parent` (choices of one call).
    """
    for number, row in enumerate(rows, 1):
        row.seq = last_seq + number
        row.parent_seq = None if parent is None else parent.seq
        follows_directly = parent is not None and parent.seq == row.seq - 1
        row.run_start_seq = parent.run_start_seq if parent is not None and follows_directly else row.seq
        if chained:
            parent = row


def shift_rows(rows: Sequence[MessageRow], by: int) -> list[MessageRow]:
    """Return copies of new rows with seqs larger by `by`, because other branches wrote messages in the meantime."""
    if not by:
        return list(rows)
    new = {row.seq: row for row in rows}
    shifted: dict[int, MessageRow] = {}
    for row in rows:
        copy = replace(row, seq=row.seq + by, run_start_seq=row.seq + by)
        if row.window_from_seq in new:  # the window starts with the turn itself
            copy.window_from_seq = row.window_from_seq + by
        if row.parent_seq in new:
            parent = shifted[row.parent_seq]
            copy.parent_seq = parent.seq
            if parent.seq == copy.seq - 1:
                copy.run_start_seq = parent.run_start_seq
        shifted[row.seq] = copy
    return list(shifted.values())


def extract_text(content: str | list[dict[str, Any]] | None) -> str:
    """Return the joined text parts of a message's content."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if part.get("type") == "text")


def extract_row_text(content: str | None, parts: str | None, refusal: str | None) -> str:
    """Return the text of a message from these columns of its row. The search indexes this text."""
    return extract_text(json.loads(parts) if parts is not None else content) or refusal or ""


def to_datetime(microseconds: int) -> datetime:
    """Convert microseconds since 1970 to a UTC datetime."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)


def to_microseconds(field: str, given: object) -> int:
    """Convert a datetime to microseconds since 1970. Raises: InvalidInput for another value, or without a time zone."""
    if not isinstance(given, datetime):
        raise InvalidInput(field, f"must be a datetime, not {type(given).__name__}")
    if given.utcoffset() is None:
        raise InvalidInput(field, "has no time zone; add one, for example tzinfo=UTC")
    # Integers, because a float of seconds does not hold every microsecond. A difference, because the first and the last day of
    # the calendar have no UTC time in some zones.
    elapsed = given - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
