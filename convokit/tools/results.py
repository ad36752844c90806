"""Format results and errors of tools; validate results from callers."""

from __future__ import annotations

import base64
import inspect
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json, to_jsonable_python

from convokit.domain.content import PART_TYPES, Blob, ToolResult, validate_content
from convokit.domain.text import dump_json, repair_text, to_plain_json, validate_text
from convokit.errors import InvalidInput, TooLarge
from convokit.settings import Limits

MAX_ERROR_CHARS = 2_000
_MAX_CAUSE_CHARS = 200
_MAX_ID_BYTES = 4096
_MAX_NUMBER = 2**64


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


def validate_results(given: object, limits: Limits) -> tuple[tuple[ToolResult, ...], tuple[Blob, ...]]:
    """Return the results of tool calls by id, and the binaries that they refer to. Raises: InvalidInput, TooLarge.

    A result is text, a list of content parts, or a value that becomes JSON. Text and JSON are cut like a function's result.
    """
    if not isinstance(given, Mapping):
        raise InvalidInput("tool_results", f"must be a mapping of call ids to results, not {type(given).__name__}")
    results, blobs = [], {}
    for call_id, value in given.items():
        validate_text("tool_results", call_id, limit=_MAX_ID_BYTES, setting="a fixed limit")
        field = f"tool_results[{call_id!r}]"
        if _are_parts(value):
            content = validate_content(value, limits, field)
            blobs.update({blob.digest: blob for blob in content.blobs})
            results.append(ToolResult(call_id, None, content.parts))
        else:
            text = _encode_result(field, value)
            results.append(ToolResult(call_id, _shorten(text, limits.tool_result_bytes)))
    size = sum(len(blob.data) for blob in blobs.values())
    if size > limits.attachment_bytes:
        raise TooLarge("tool_results", size, limits.attachment_bytes, setting="Limits.attachment_bytes")
    return tuple(results), tuple(blobs.values())


def _are_parts(value: object) -> bool:
    """Return whether a result is a list of content parts. A list with anything else in it is a JSON value."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return False
    # A JSON value may have a "type" too: a part also has a key of that name.
    marks = [isinstance(item, Mapping) and item.get("type") in PART_TYPES and item["type"] in item for item in value]
    return any(marks) and all(is_part or isinstance(item, str) for is_part, item in zip(marks, value, strict=True))


def _encode_result(field: str, value: object) -> str:
    if isinstance(value, str):
        return validate_text(field, str.__str__(value), limit=2**62, setting="")
    if inspect.isawaitable(value):
        raise InvalidInput(field, f"is a {type(value).__name__}: await it, and pass its result")
    try:
        plain = to_jsonable_python(value)
    except Exception as error:  # a value's own serializer can raise anything
        cause = str(error).partition("\n")[0][:_MAX_CAUSE_CHARS]
        problem = (
            f"a {type(value).__name__} is not JSON serializable: pass text, content parts or a JSON value ({cause})"
        )
        raise InvalidInput(field, repair_text(problem)) from None
    return dump_json(to_plain_json(field, plain, max_number=_MAX_NUMBER))


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
