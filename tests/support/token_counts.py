"""Count the tokens of a request as a model server counts them.

Nothing of `convokit.tokens` is used, so that counts of convokit are compared with counts of others. Messages, tools and images
follow the formulas of OpenAI's cookbook for gpt-4o.
"""

from __future__ import annotations

import base64
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

VOCABULARY = "o200k_base"
_MESSAGE = 3
_PRIMER = 3
_CALL = 3
_TOOL, _PROPERTIES, _PROPERTY, _ENUM, _ENUM_ITEM, _TOOLS_END = 7, 3, 3, -3, 3, 12
_IMAGE_BASE, _IMAGE_TILE, _IMAGE_TILES = 85, 170, 4


@functools.cache
def load_encode(vocabulary: str) -> Callable[[str], list[int]]:
    """Return the encoder of a vocabulary of splintr. It is loaded once in a process (o200k_base: about 50 ms)."""
    encode: Callable[[str], list[int]] = import_module("splintr").Tokenizer.from_pretrained(vocabulary).encode_ordinary
    return encode


@functools.lru_cache(maxsize=4096)  # a request repeats nearly all messages of the request before it
def count_text(text: str, vocabulary: str = VOCABULARY) -> int:
    """Return the tokens of a text. A lone surrogate counts as U+FFFD."""
    if not text:
        return 0
    try:
        return len(load_encode(vocabulary)(text))
    except UnicodeEncodeError:
        return len(load_encode(vocabulary)(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")))


def count_request(body: Any, vocabulary: str = VOCABULARY) -> int:
    """Return the prompt tokens of a request: messages, tools, response schema, and what starts the reply."""
    if not isinstance(body, Mapping):
        return 0
    total = _PRIMER + sum(count_message(each, vocabulary) for each in body.get("messages") or ())
    tools = [each["function"] for each in body.get("tools") or () if "function" in each] + (body.get("functions") or [])
    if tools:
        total += _TOOLS_END + sum(_count_tool(each, vocabulary) for each in tools)
    schema = (body.get("response_format") or {}).get("json_schema")
    return total + (count_text(_write(schema), vocabulary) if schema else 0)


def count_message(message: Mapping[str, Any], vocabulary: str = VOCABULARY) -> int:
    """Return the tokens of one message of a request."""
    total = _MESSAGE + count_text(message["role"], vocabulary) + count_reply(message, vocabulary)
    return total + (1 + count_text(message["name"], vocabulary) if message.get("name") else 0)


def count_reply(message: Mapping[str, Any], vocabulary: str = VOCABULARY) -> int:
    """Return the tokens that a model wrote for a message: its content, refusal, reasoning and calls."""
    content = message.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    total = sum(_count_part(each, vocabulary) for each in parts)
    for key in ("refusal", "reasoning_content", "reasoning"):
        total += count_text(message[key], vocabulary) if isinstance(message.get(key), str) else 0
    functions = [call.get("function") or call.get("custom") or {} for call in message.get("tool_calls") or ()]
    for function in [*functions, message.get("function_call") or {}]:
        texts = (function.get(key) for key in ("name", "arguments", "input"))
        total += sum(count_text(text, vocabulary) for text in texts if isinstance(text, str))
    return total + _CALL * len(functions)


def _count_part(part: Mapping[str, Any], vocabulary: str) -> int:
    kind = part.get("type")
    if kind == "image_url":
        return _count_image(part["image_url"])
    if kind == "input_audio":
        return math.ceil(len(part["input_audio"].get("data", "")) * 0.75 / 4000 * 10)  # 10 tokens a second, 32 kbit/s
    text = part.get("text", part.get("refusal"))
    return count_text(text if isinstance(text, str) else _write(part), vocabulary)


def _count_image(image: Any) -> int:
    """Return 85 tokens and 170 for each tile of 512 pixels; the image fits into 2,048, its short side into 768."""
    image = {"url": image} if isinstance(image, str) else image
    if image.get("detail") == "low":
        return _IMAGE_BASE
    head, _, data = image["url"].partition(",")
    tiles = _IMAGE_TILES
    if head == "data:image/png;base64":
        start = base64.b64decode(data[:32])
        short, long = sorted((int.from_bytes(start[16:20]), int.from_bytes(start[20:24])))
        scale = min(1.0, 2048 / max(long, 1), 768 / max(short, 1))
        tiles = math.ceil(short * scale / 512) * math.ceil(long * scale / 512)
    return _IMAGE_BASE + _IMAGE_TILE * tiles


def _count_tool(function: Mapping[str, Any], vocabulary: str) -> int:
    total = _TOOL + count_text(f"{function['name']}:{_strip(function.get('description'))}", vocabulary)
    properties = (function.get("parameters") or {}).get("properties") or {}
    total += _PROPERTIES if properties else 0
    for name, given in properties.items():
        schema = given if isinstance(given, Mapping) else {}
        total += _PROPERTY
        total += count_text(f"{name}:{schema.get('type')}:{_strip(schema.get('description'))}", vocabulary)
        if schema.get("enum"):
            total += _ENUM + sum(_ENUM_ITEM + count_text(str(item), vocabulary) for item in schema["enum"])
    return total


def _strip(description: Any) -> str:
    return str(description or "").rstrip(".")


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def join_reply(choices: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages of plain choices, or of the choices of a stream's chunks, which are joined."""
    joined: dict[Any, dict[str, Any]] = {}
    calls: dict[tuple[Any, Any], dict[str, str]] = {}
    for choice in choices:
        delta: Mapping[str, Any] = choice.get("message") or choice.get("delta") or {}
        message = joined.setdefault(choice.get("index"), {"tool_calls": []})
        for key in ("content", "refusal", "reasoning_content", "reasoning"):
            if isinstance(delta.get(key), str):
                message[key] = message.get(key, "") + delta[key]
        listed: list[dict[str, Any]] = delta.get("tool_calls") or []
        for place, call in enumerate(listed):
            target = (choice.get("index"), call.get("index", place))
            if target not in calls:
                calls[target] = {}
                message["tool_calls"].append({"function": calls[target]})
            for key, value in (call.get("function") or call.get("custom") or {}).items():
                if isinstance(value, str):
                    calls[target][key] = calls[target].get(key, "") + value
    return list(joined.values())
