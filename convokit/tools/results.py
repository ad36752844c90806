"""Format the result or the error of a tool as text for the model."""

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
_MAX_CAUSE_CHARS = 200


def format_result(value: Any, limit: int) -> str:
    """Return the result of a tool as text of at most `limit` bytes of UTF-8. A longer text is cut, and the cut is marked.

    Text stays as it is. Other values become compact JSON: bytes as text if they are UTF-8, else as base64. A value that is not
    JSON serializable becomes an error for the model.
    """
    if isinstance(value, str):
        return _shorten(repair_text(str.__str__(value)), limit)
    try:
        text = _to_json(value)
    except Exception as error:  # a value's own serializer can raise anything
        cause = str(error).partition("\n")[0][:_MAX_CAUSE_CHARS]
        message = f"the tool returned a {type(value).__name__}, which is not JSON serializable: {cause}"
        text = dump_json({"error": repair_text(message)})
    return _shorten(repair_text(text), limit)


def format_error(error: Exception) -> str:
    """Return an error as JSON, `{"error": "type: message"}`, of at most 2,000 characters. The model never gets a traceback."""
    try:
        message = repair_text(str(error))
    except Exception:  # an exception's own __str__ can raise anything
        message = ""
    name = type(error).__name__
    message = f"{name}: {message}" if message else name
    text = dump_json({"error": message})
    if len(text) <= MAX_ERROR_CHARS:
        return text
    # JSON escapes make the text longer by an unknown amount, so the longest part that fits is searched for.
    available = MAX_ERROR_CHARS - len(dump_json({"error": "…"})) + 2
    size = bisect_right(range(MAX_ERROR_CHARS), available, key=lambda size: len(dump_json(message[:size])))
    return dump_json({"error": message[: size - 1] + "…"})


def _to_json(value: Any) -> str:
    try:
        return to_json(value, inf_nan_mode="strings").decode("utf-8")
    except (ValueError, TypeError):  # bytes that are not UTF-8, lone surrogates, an unknown mapping or set class
        return to_json(_to_plain(value), inf_nan_mode="strings").decode("utf-8")


def _to_plain(value: Any) -> Any:
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        try:
            return repair_text(data.decode("utf-8"))
        except UnicodeDecodeError:
            return base64.b64encode(data).decode("ascii")
    if isinstance(value, BaseModel):
        return _to_plain(value.model_dump(by_alias=True))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_to_plain(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return _to_plain(os.fspath(value))
    if isinstance(value, list | tuple | Set | range):
        return [_to_plain(item) for item in value]
    return value


def _shorten(text: str, limit: int) -> str:
    data = text.encode("utf-8")
    if len(data) <= limit:
        return text
    available = limit - len(_format_mark(len(data), len(data)).encode("utf-8"))  # the longest mark that is possible
    if available < 0:
        return data[: max(limit, 0)].decode("utf-8", "ignore")
    start = data[:available].decode("utf-8", "ignore")
    return start + _format_mark(len(data) - len(start.encode("utf-8")), len(data))


def _format_mark(cut_bytes: int, size_bytes: int) -> str:
    return f"… [cut: {cut_bytes:,} of {size_bytes:,} bytes]"
