"""Join the pieces of spoken replies, and of OpenRouter's reasoning details."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

_BASE64_PIECE = re.compile(r"[^=]+=*")
JOINED_AUDIO_KEYS = ("data", "transcript")
_JOINED_REASONING_KEYS = ("text", "summary", "data")


def join_audio(pieces: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the `audio` object from the pieces of each of its keys. The first piece of any other key counts."""
    audio = {key: values[0] if values else None for key, values in pieces.items()}
    for key in JOINED_AUDIO_KEYS:
        if isinstance(audio.get(key), str):
            text = "".join(piece for piece in pieces[key] if isinstance(piece, str))
            audio[key] = join_base64(text) if key == "data" else text
    return audio


def join_base64(text: str) -> str:
    """Return valid base64 for pieces that were encoded one by one, with padding in the middle."""
    if "=" not in text.rstrip("="):
        return text
    try:
        data = b"".join(base64.b64decode(piece, validate=True) for piece in _BASE64_PIECE.findall(text))
    except (binascii.Error, ValueError):
        return text  # invalid base64 is kept as it came
    return base64.b64encode(data).decode("ascii")


def join_reasoning_details(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return OpenRouter's `reasoning_details` from their pieces. The pieces of one block share `index` and `type`.

    Each piece carries `whole`: true if it comes from a whole reply, whose blocks are never joined.
    """
    blocks: list[dict[str, Any]] = []
    texts: list[dict[str, list[str]]] = []
    latest: dict[Any, int] = {}
    for piece in pieces:
        index, kind = piece.get("index"), piece.get("type")
        at = None if piece["whole"] or not isinstance(index, int) else latest.get(index)
        if at is None or blocks[at].get("type") != kind:
            at = len(blocks)
            blocks.append({})
            texts.append({})
            if isinstance(index, int):
                latest[index] = at
        for key, value in piece.items():
            if key in _JOINED_REASONING_KEYS and isinstance(value, str):
                texts[at].setdefault(key, []).append(value)
            elif key != "whole" and (value is not None or key not in blocks[at]):
                blocks[at][key] = value
    return [
        {**block, **{key: "".join(parts) for key, parts in text.items()}}
        for block, text in zip(blocks, texts, strict=True)
    ]
