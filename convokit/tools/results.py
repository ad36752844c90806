"""What the model is told of a tool's outcome, as text: what it returned, or what went wrong.

Whatever a function returns becomes a text that can be stored and sent, of at most so many bytes; a cut says how much it cut.
A failure is told by its type and message, never by a traceback.
"""

from __future__ import annotations

import base64
import os
from bisect import bisect_right
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from convokit.domain.text import dump_json, repair_text

MAX_ERROR_CHARS = 2_000
_WHY_CHARS = 200


def format_result(value: Any, limit: int) -> str:
    """Return what a tool returned as text of at most `limit` bytes of UTF-8.

    Text stays as it is, everything else becomes compact JSON; bytes are text where they are UTF-8, base64 where they are
    not. What JSON has no form for becomes an error for the model to read.
    """
    if isinstance(value, str):
        return _cut(repair_text(str.__str__(value)), limit)
    try:
        text = _json(value)
    except Exception as error:  # serializers are code of the value's own
        why = str(error).partition("\n")[0][:_WHY_CHARS]
        said = f"the tool returned a {type(value).__name__}, which cannot be told as JSON: {why}"
        text = dump_json({"error": repair_text(said)})
    return _cut(repair_text(text), limit)


def format_error(error: Exception) -> str:
    """Return a failure as JSON, `{"error": "type: message"}`, of at most 2,000 characters."""
    try:
        said = repair_text(str(error))
    except Exception:  # an exception whose own text cannot be made
        said = ""
    name = type(error).__name__
    message = f"{name}: {said}" if said else name
    text = dump_json({"error": message})
    if len(text) <= MAX_ERROR_CHARS:
        return text
    room = MAX_ERROR_CHARS - len(dump_json({"error": "…"})) + 2
    kept = bisect_right(
        range(MAX_ERROR_CHARS), room, key=lambda size: len(dump_json(message[:size]))
    )  # escapes are long
    return dump_json({"error": message[: kept - 1] + "…"})


def _json(value: Any) -> str:
    try:
        return to_json(value, inf_nan_mode="strings").decode("utf-8")
    except (ValueError, TypeError):  # bytes that are no UTF-8, lone surrogates, a mapping or set of another class
        return to_json(_plain(value), inf_nan_mode="strings").decode("utf-8")


def _plain(value: Any) -> Any:
    """Return a value in Python's own containers, its texts and bytes fit for JSON."""
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        try:
            return repair_text(data.decode("utf-8"))
        except UnicodeDecodeError:
            return base64.b64encode(data).decode("ascii")
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(by_alias=True))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return _plain(os.fspath(value))
    if isinstance(value, list | tuple | Set | range):
        return [_plain(item) for item in value]
    return value


def _cut(text: str, limit: int) -> str:
    """Return the beginning of a text that fits, with a mark of how much is not there."""
    data = text.encode("utf-8")
    if len(data) <= limit:
        return text
    room = limit - len(_mark(len(data), len(data)).encode("utf-8"))  # no mark is longer than this one
    if room < 0:
        return data[: max(limit, 0)].decode("utf-8", "ignore")
    kept = data[:room].decode("utf-8", "ignore")
    return kept + _mark(len(data) - len(kept.encode("utf-8")), len(data))


def _mark(cut: int, size: int) -> str:
    return f"… [cut: {cut:,} of {size:,} bytes]"
