"""The lossless form of a conversation: JSON Lines, one for each row.

The first line of a file is `{"convokit": ...}`: the form's version, and which database and tenant it is from. A conversation is
its own row, those below it, and an `end` with a digest of its lines; the file's last line is a `footer` with the digest of all.
Keys are column names, what is null is left out, binaries are base64 and everything else in bytes hexadecimal. JSON that is
stored as text stays text, so that what is hashed comes back to the byte.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Uuid

from convokit.domain.conversation import ConversationRow
from convokit.domain.text import validate_text
from convokit.errors import InvalidInput
from convokit.store.schema import conversation
from convokit.transfer import sql

VERSION = 1
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_CLOSED = {
    ("turn", "state"): {"open": "abandoned"},
    ("completion", "state"): {"sending": "abandoned", "streaming": "abandoned"},
    ("tool_call", "state"): {"running": "unknown"},
}
"""What is still running is written as a takeover would leave it: whoever reads the file cannot go on with it."""
_UNBOUNDED = 2**62


def line(kind: str, values: Mapping[str, Any]) -> str:
    """Return one line, its end included."""
    return _encode({kind: values}) + "\n"


@lru_cache
def _columns(kind: str) -> list[Column[Any]]:
    if kind == "conversation":
        return [conversation.columns[name] for name in ConversationRow.__slots__ if name != "tenant"]
    return [sql.CHILDREN[kind].columns[name] for name in sql.columns(kind)]


@lru_cache
def _encoders(kind: str) -> list[tuple[str, Callable[[Any], Any] | None]]:
    return [(column.name, _encoder(kind, column)) for column in _columns(kind)]


def _encoder(kind: str, column: Column[Any]) -> Callable[[Any], Any] | None:
    if isinstance(column.type, LargeBinary):
        return _base64 if column.name == "data" else lambda value: bytes(value).hex()
    if isinstance(column.type, Uuid):
        return str
    closed = _CLOSED.get((kind, column.name))
    return None if closed is None else lambda value: closed.get(value, value)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def encoded(kind: str, row: Sequence[Any]) -> str:
    """Return the line of a row, given as its values in the order of its columns."""
    if kind == "turn":
        row = _ended(row)
    return line(
        kind,
        {
            name: value if encoder is None else encoder(value)
            for (name, encoder), value in zip(_encoders(kind), row, strict=True)
            if value is not None
        },
    )


def _ended(row: Sequence[Any]) -> Sequence[Any]:
    """Return a turn that is still open as one that ended when it was last heard of: the same whenever it is exported."""
    values = dict(zip(sql.columns("turn"), row, strict=True))
    if values["ended_at"] is None:
        values["ended_at"] = values["first_token_at"] or values["started_at"]
    return list(values.values())


def of_conversation(row: ConversationRow) -> str:
    """Return the line of a conversation."""
    return encoded("conversation", [getattr(row, column.name) for column in _columns("conversation")])


def decoded(kind: str, values: object) -> dict[str, Any]:
    """Return the row of a line, with all its columns. Raises: InvalidInput naming the column that is not right."""
    if not isinstance(values, Mapping):
        raise InvalidInput(kind, "must be an object")
    found = {column.name: _value(kind, column, values.get(column.name)) for column in _columns(kind)}
    for name in values:
        if name not in found:
            raise InvalidInput(f"{kind}.{str(name)[:50]}", "is a column that this version of convokit does not know")
    return found


def _value(kind: str, column: Column[Any], value: Any) -> Any:
    place, type_ = f"{kind}.{column.name}", column.type
    if value is None:
        if column.nullable:
            return None
        raise InvalidInput(place, "is missing")
    if isinstance(type_, Integer):
        return _whole(place, value, 63 if isinstance(type_, BigInteger) else 31)
    text = validate_text(place, value, limit=_UNBOUNDED, setting="")
    try:
        if isinstance(type_, Uuid):
            return UUID(text)
        if isinstance(type_, LargeBinary):
            return base64.b64decode(text, validate=True) if column.name == "data" else bytes.fromhex(text)
    except (ValueError, binascii.Error):
        raise InvalidInput(place, f"is not {'an id' if isinstance(type_, Uuid) else 'bytes'}") from None
    return text


def _whole(place: str, value: Any, bits: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**bits) <= value < 2**bits:
        raise InvalidInput(place, f"must be a whole number of {bits} bits")
    return value
