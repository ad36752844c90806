"""Join the audio, the objects and the reasoning details of several chunks."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

_BASE64_CHUNK = re.compile(r"[^=]+=*")
JOINED_AUDIO_KEYS = ("data", "transcript")
_JOINED_REASONING_KEYS = ("text", "summary", "data")


def join_audio(chunks: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the `audio` object from the values of each key in all chunks.

    Data and transcript are joined. Of any other key, the first value counts.
    """
    audio = {key: values[0] if values else None for key, values in chunks.items()}
    for key in JOINED_AUDIO_KEYS:
        if isinstance(audio.get(key), str):
            text = "".join(chunk for chunk in chunks[key] if isinstance(chunk, str))
            audio[key] = join_base64(text) if key == "data" else text
    return audio


def join_base64(text: str) -> str:
    """Return valid base64 for chunks that were encoded one by one, with padding in the middle."""
    if "=" not in text.rstrip("="):
        return text
    try:
        data = b"".join(base64.b64decode(chunk, validate=True) for chunk in _BASE64_CHUNK.findall(text))
    except (binascii.Error, ValueError):
        return text  # invalid base64 is kept as it came
    return base64.b64encode(data).decode("ascii")


def join_objects(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return an object with the keys of both. Lists are joined, unless the second repeats the first."""
    joined = {**first, **second}
    for key, value in second.items():
        old = first.get(key)
        if isinstance(value, list) and isinstance(old, list) and value[: len(old)] != old:
            joined[key] = [*old, *value]
    return joined


def join_reasoning_details(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return OpenRouter's `reasoning_details` from its chunks. The chunks of one block share `index` and `type`.

    Each chunk carries `whole`: true if it comes from a whole reply, whose blocks are never joined.
    """
    blocks: list[dict[str, Any]] = []
    texts: list[dict[str, list[str]]] = []
    latest: dict[Any, int] = {}
    for chunk in chunks:
        index, kind = chunk.get("index"), chunk.get("type")
        at = None if chunk["whole"] or not isinstance(index, int) else latest.get(index)
        if at is None or blocks[at].get("type") != kind:
            at = len(blocks)
            blocks.append({})
            texts.append({})
            if isinstance(index, int):
                latest[index] = at
        for key, value in chunk.items():
            if key in _JOINED_REASONING_KEYS and isinstance(value, str):
                texts[at].setdefault(key, []).append(value)
            elif key != "whole" and (value is not None or key not in blocks[at]):
                blocks[at][key] = value
    return [
        {**block, **{key: "".join(parts) for key, parts in text.items()}}
        for block, text in zip(blocks, texts, strict=True)
    ]
