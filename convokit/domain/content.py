"""Content parts: what a message holds besides plain text, and where its binaries are kept.

A binary is stored once per conversation under its SHA-256 and referred to as `blob:<hex>`; base64 is decoded and encoded anew
before the first send, so that what is sent later is byte for byte what was sent then. Nothing here follows a URL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote_to_bytes

from convokit.domain.text import validate_text
from convokit.errors import InvalidInput, TooLarge
from convokit.settings import Limits

BLOB_SCHEME = "blob:"
_DATA_URL = re.compile(
    r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*(?P<base64>;base64)?,(?P<data>.*)", re.DOTALL | re.ASCII
)
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_DETAILS = frozenset({"auto", "low", "high", "original"})
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}


@dataclass(frozen=True, slots=True)
class Blob:
    """A binary part: its SHA-256, its media type, its bytes."""

    digest: bytes
    media_type: str
    data: bytes

    @classmethod
    def from_bytes(cls, media_type: str, data: bytes) -> Blob:
        """Return data as a blob. The type belongs to the digest: the same bytes as another type are another part."""
        return cls(hashlib.sha256(media_type.encode() + b"\x00" + data).digest(), media_type, data)

    @property
    def url(self) -> str:
        """How a stored part refers to it."""
        return BLOB_SCHEME + self.digest.hex()


@dataclass(frozen=True, slots=True)
class Content:
    """A message's content, ready to be stored: plain text, or parts and the binaries they refer to."""

    text: str | None
    parts: list[dict[str, Any]] | None = None
    blobs: tuple[Blob, ...] = ()
    passages: tuple[str, ...] = ()
    """Texts retrieved for a question: messages of their own, before it."""
    tokens: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    """What the message costs, by the name of the counter that counted it."""


def validate_question(given: object, context: object, limits: Limits) -> Content:
    """Return a question and its passages as content that can be stored. Raises: InvalidInput, TooLarge."""
    content, passages = validate_content(given, limits), validate_passages(context, limits)
    return replace(content, passages=passages) if passages else content


def validate_passages(given: object, limits: Limits) -> tuple[str, ...]:
    """Return texts that can be stored. Raises: InvalidInput, TooLarge."""
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise InvalidInput("context", f"must be a list of texts, not {type(given).__name__}")
    limit, setting = limits.passages_bytes, "Limits.passages_bytes"
    passages = tuple(
        validate_text(f"context[{index}]", text, limit=limit, setting=setting) for index, text in enumerate(given)
    )
    if "" in passages:
        raise InvalidInput(f"context[{passages.index('')}]", "is empty")
    size = sum(len(text.encode()) for text in passages)
    if size > limit:
        raise TooLarge("context", size, limit, setting=setting)
    return passages


def validate_content(given: object, limits: Limits) -> Content:
    """Return text or parts (in the API's shape) as content that can be stored. Raises: InvalidInput, TooLarge."""
    if isinstance(given, str):
        text = _text("message", given, limits)
        if not text:
            raise InvalidInput("message", "is empty: there is nothing to answer")
        return Content(text)
    if isinstance(given, bytes) or not isinstance(given, Sequence):
        raise InvalidInput("message", f"must be text or a list of content parts, not {type(given).__name__}")
    if not given:
        raise InvalidInput("message", "is empty: there is nothing to answer")
    blobs: dict[bytes, Blob] = {}
    parts = [_part(f"message[{index}]", part, limits, blobs) for index, part in enumerate(given)]
    size = sum(len(blob.data) for blob in blobs.values())
    if size > limits.attachment_bytes:
        raise TooLarge("message", size, limits.attachment_bytes, setting="Limits.attachment_bytes")
    return Content(None, parts, tuple(blobs.values()))


def _text(field: str, value: object, limits: Limits) -> str:
    return validate_text(field, value, limit=limits.message_bytes, setting="Limits.message_bytes")


def _part(field: str, part: object, limits: Limits, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": _text(field, part, limits)}
    if not isinstance(part, Mapping):
        raise InvalidInput(field, f"must be a content part, not {type(part).__name__}")
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": _text(f"{field}.text", part.get("text"), limits)}
    if kind == "image_url":
        return _image(f"{field}.image_url", part.get("image_url"), limits, blobs)
    if kind == "input_audio":
        return _audio(f"{field}.input_audio", part.get("input_audio"), blobs)
    if kind == "file":
        return _file(f"{field}.file", part.get("file"), limits, blobs)
    raise InvalidInput(f"{field}.type", f"{kind!r} is not text, image_url, input_audio or file")


def _image(field: str, image: object, limits: Limits, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    if not isinstance(image, Mapping):
        raise InvalidInput(field, "must be an object with a url")
    url, detail = image.get("url"), image.get("detail")
    if detail is not None and (not isinstance(detail, str) or detail not in _DETAILS):
        raise InvalidInput(f"{field}.detail", f"{detail!r} is not one of {', '.join(sorted(_DETAILS))}")
    if not isinstance(url, str) or not (url.startswith("data:") or _HTTP.match(url)):
        raise InvalidInput(f"{field}.url", "must be an http(s) or data: URL")
    kept = _kept(f"{field}.url", url, blobs) if url.startswith("data:") else _text(f"{field}.url", url, limits)
    return {"type": "image_url", "image_url": {"url": kept, **({"detail": detail} if detail else {})}}


def _audio(field: str, audio: object, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    form = audio.get("format") if isinstance(audio, Mapping) else None
    if not isinstance(audio, Mapping) or not isinstance(form, str) or form not in _AUDIO:
        raise InvalidInput(field, "must be an object with data (base64) and format (wav or mp3)")
    data = _decoded(f"{field}.data", audio.get("data"))
    blob = _add(blobs, _AUDIO[form], data)
    return {"type": "input_audio", "input_audio": {"data": blob.url, "format": form}}


def _file(field: str, file: object, limits: Limits, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    if not isinstance(file, Mapping) or not (file.get("file_id") or file.get("file_data")):
        raise InvalidInput(field, "must be an object with file_id, or with file_data (a data: URL) and filename")
    kept = {key: _text(f"{field}.{key}", file[key], limits) for key in ("file_id", "filename") if file.get(key)}
    if file.get("file_data"):
        kept["file_data"] = _kept(f"{field}.file_data", file["file_data"], blobs)
    return {"type": "file", "file": kept}


def _kept(field: str, url: object, blobs: dict[bytes, Blob]) -> str:
    found = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        raise InvalidInput(field, "must be a data: URL such as data:image/png;base64,…")
    raw = found["data"]
    data = _decoded(field, raw) if found["base64"] else _unquoted(field, raw)
    return _add(blobs, (found["type"] or "text/plain").lower(), data).url


def _decoded(field: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput(field, "must be base64 text")
    packed = "".join(value.split())
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(field, "is not valid base64") from None


def _unquoted(field: str, value: str) -> bytes:
    try:
        return unquote_to_bytes(value)
    except UnicodeEncodeError:
        raise InvalidInput(field, "holds a lone surrogate, which cannot be sent") from None


def _add(blobs: dict[bytes, Blob], media_type: str, data: bytes) -> Blob:
    blob = Blob.from_bytes(media_type, data)
    return blobs.setdefault(blob.digest, blob)


_FIELD = {"image_url": "url", "input_audio": "data", "file": "file_data"}
"""Where a part of each kind holds its binary."""


def blob_references(parts_json: str | None, extra_json: str | None) -> list[bytes]:
    """Return the digests of the binaries that a stored message holds: those of its parts, and its sound."""
    held = []
    if parts_json is not None and BLOB_SCHEME in parts_json:
        parts = json.loads(parts_json)
        held = [part[part["type"]].get(_FIELD[part["type"]]) for part in parts if part["type"] in _FIELD]
    if extra_json is not None and BLOB_SCHEME in extra_json:
        held.append((json.loads(extra_json)["keys"].get("audio") or {}).get("data"))
    return [bytes.fromhex(each.removeprefix(BLOB_SCHEME)) for each in held if each and each.startswith(BLOB_SCHEME)]


def blob_digests(parts_json: str) -> list[bytes]:
    """Return the digests that a stored message refers to."""
    return [bytes.fromhex(found) for found in re.findall(r'"blob:([0-9a-f]{64})"', parts_json)]


def inline_blobs(messages: Sequence[dict[str, Any]], blobs: Mapping[bytes, Blob]) -> list[dict[str, Any]]:
    """Return the messages with every reference replaced by its binary, as data: URL or base64. Nothing is changed in place."""
    return [_inflated(message, blobs) if isinstance(message.get("content"), list) else message for message in messages]


def _inflated(message: dict[str, Any], blobs: Mapping[bytes, Blob]) -> dict[str, Any]:
    return {**message, "content": [_inflated_part(part, blobs) for part in message["content"]]}


def _inflated_part(part: dict[str, Any], blobs: Mapping[bytes, Blob]) -> dict[str, Any]:
    kind = part["type"]
    field = _FIELD.get(kind)
    if field is None or not str(part[kind].get(field, "")).startswith(BLOB_SCHEME):
        return part
    blob = blobs.get(bytes.fromhex(part[kind][field].removeprefix(BLOB_SCHEME)))
    if blob is None:
        return {"type": "text", "text": f"[{kind} erased]"}
    encoded = base64.b64encode(blob.data).decode("ascii")
    value = encoded if kind == "input_audio" else f"data:{blob.media_type};base64,{encoded}"
    return {**part, kind: {**part[kind], field: value}}
