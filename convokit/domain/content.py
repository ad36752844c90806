"""Validate message content: text, content parts, and binaries in data: URLs.

A conversation stores a binary once, under its SHA-256. Parts refer to it as `blob:<hex>`. Base64 is decoded before it is stored
and encoded again for every request, so that all requests have the same bytes. No URL is fetched.
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
PART_TYPES = ("text", "image_url", "input_audio", "file")
_DETAILS = frozenset({"auto", "low", "high", "original"})
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
# The key of each kind of part that holds its binary.
_BLOB_KEYS = {"image_url": "url", "input_audio": "data", "file": "file_data"}


@dataclass(frozen=True, slots=True)
class Blob:
    """The binary of a content part."""

    digest: bytes
    media_type: str
    data: bytes

    @classmethod
    def from_bytes(cls, media_type: str, data: bytes) -> Blob:
        # The digest includes the type: the same bytes with another type are another part.
        return cls(hashlib.sha256(media_type.encode() + b"\x00" + data).digest(), media_type, data)

    @property
    def url(self) -> str:
        return BLOB_SCHEME + self.digest.hex()


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The validated result of a tool call that the caller answers: either text or parts."""

    call_id: str
    text: str | None
    parts: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """The validated content of a message: either text, or parts with the binaries that they refer to.

    A turn may start with tool results alone. Then there is neither text nor parts.
    """

    text: str | None
    parts: list[dict[str, Any]] | None = None
    blobs: tuple[Blob, ...] = ()
    """The binaries of the parts, and of the parts of the results."""
    passages: tuple[str, ...] = ()
    """Texts that were retrieved for the question. Each is stored as a message before it."""
    results: tuple[ToolResult, ...] = ()
    """Results of tool calls. They are stored before the passages, as messages that answer the calls."""
    has_question: bool = True
    """Whether there is a question, and not tool results alone."""
    tokens: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    """Tokens of the message, by the name of the counter."""


def validate_question(given: object, passages: object, limits: Limits) -> Content:
    """Validate a question and its passages. Raises: InvalidInput, TooLarge."""
    content, texts = validate_content(given, limits), validate_passages(passages, limits)
    return replace(content, passages=texts) if texts else content


def validate_passages(given: object, limits: Limits) -> tuple[str, ...]:
    """Validate retrieved texts. Raises: InvalidInput, TooLarge."""
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise InvalidInput("passages", f"must be a list of texts, not {type(given).__name__}")
    limit, setting = limits.passages_bytes, "Limits.passages_bytes"
    passages = tuple(
        validate_text(f"passages[{index}]", text, limit=limit, setting=setting) for index, text in enumerate(given)
    )
    if "" in passages:
        raise InvalidInput(f"passages[{passages.index('')}]", "is empty")
    size = sum(len(text.encode()) for text in passages)
    if size > limit:
        raise TooLarge("passages", size, limit, setting=setting)
    return passages


def validate_content(given: object, limits: Limits, field: str = "message") -> Content:
    """Validate text, or a list of parts in the shape of the API; `field` names it in errors. Raises: InvalidInput, TooLarge."""
    if isinstance(given, str):
        text = _validate_text(given, field, limits)
        if not text:
            raise InvalidInput(field, "is empty: pass text or content parts")
        return Content(text)
    if isinstance(given, bytes) or not isinstance(given, Sequence):
        raise InvalidInput(field, f"must be text or a list of content parts, not {type(given).__name__}")
    if not given:
        raise InvalidInput(field, "is empty: pass text or content parts")
    blobs: dict[bytes, Blob] = {}
    parts = [_validate_part(f"{field}[{index}]", part, limits, blobs) for index, part in enumerate(given)]
    size = sum(len(blob.data) for blob in blobs.values())
    if size > limits.attachment_bytes:
        raise TooLarge(field, size, limits.attachment_bytes, setting="Limits.attachment_bytes")
    return Content(None, parts, tuple(blobs.values()))


def _validate_text(value: object, field: str, limits: Limits) -> str:
    return validate_text(field, value, limit=limits.message_bytes, setting="Limits.message_bytes")


def _validate_part(field: str, part: object, limits: Limits, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    """Return a part that can be stored, and add its binary to `blobs`."""
    if isinstance(part, str):
        return {"type": "text", "text": _validate_text(part, field, limits)}
    if not isinstance(part, Mapping):
        raise InvalidInput(field, f"must be a content part, not {type(part).__name__}")
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": _validate_text(part.get("text"), f"{field}.text", limits)}
    if kind == "image_url":
        return _validate_image(f"{field}.image_url", part.get("image_url"), limits, blobs)
    if kind == "input_audio":
        return _validate_audio(f"{field}.input_audio", part.get("input_audio"), blobs)
    if kind == "file":
        return _validate_file(f"{field}.file", part.get("file"), limits, blobs)
    raise InvalidInput(f"{field}.type", f"{kind!r} is not text, image_url, input_audio or file")


def _validate_image(field: str, image: object, limits: Limits, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    if not isinstance(image, Mapping):
        raise InvalidInput(field, "must be an object with a url")
    url, detail = image.get("url"), image.get("detail")
    if detail is not None and (not isinstance(detail, str) or detail not in _DETAILS):
        raise InvalidInput(f"{field}.detail", f"{detail!r} is not one of {', '.join(sorted(_DETAILS))}")
    if not isinstance(url, str) or not (url.startswith("data:") or _HTTP.match(url)):
        raise InvalidInput(f"{field}.url", "must be an http(s) or data: URL")
    if url.startswith("data:"):
        stored_url = _store_data_url(f"{field}.url", url, blobs)
    else:
        stored_url = _validate_text(url, f"{field}.url", limits)
    return {"type": "image_url", "image_url": {"url": stored_url, **({"detail": detail} if detail else {})}}


def _validate_audio(field: str, audio: object, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    form = audio.get("format") if isinstance(audio, Mapping) else None
    if not isinstance(audio, Mapping) or not isinstance(form, str) or form not in _AUDIO_TYPES:
        raise InvalidInput(field, "must be an object with data (base64) and format (wav or mp3)")
    blob = _add_blob(_AUDIO_TYPES[form], _decode_base64(f"{field}.data", audio.get("data")), blobs)
    return {"type": "input_audio", "input_audio": {"data": blob.url, "format": form}}


def _validate_file(field: str, file: object, limits: Limits, blobs: dict[bytes, Blob]) -> dict[str, Any]:
    if not isinstance(file, Mapping) or not (file.get("file_id") or file.get("file_data")):
        raise InvalidInput(field, "must be an object with file_id, or with file_data (a data: URL) and filename")
    stored = {
        key: _validate_text(file[key], f"{field}.{key}", limits) for key in ("file_id", "filename") if file.get(key)
    }
    if file.get("file_data"):
        stored["file_data"] = _store_data_url(f"{field}.file_data", file["file_data"], blobs)
    return {"type": "file", "file": stored}


def _store_data_url(field: str, url: object, blobs: dict[bytes, Blob]) -> str:
    """Add the binary of a data: URL to `blobs` and return its reference."""
    match = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise InvalidInput(field, "must be a data: URL such as data:image/png;base64,…")
    data = _decode_base64(field, match["data"]) if match["base64"] else _percent_decode(field, match["data"])
    return _add_blob((match["type"] or "text/plain").lower(), data, blobs).url


def _decode_base64(field: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput(field, "must be base64 text")
    encoded = "".join(value.split())
    try:
        # Some encoders leave out the padding.
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(field, "is not valid base64") from None


def _percent_decode(field: str, value: str) -> bytes:
    try:
        return unquote_to_bytes(value)
    except UnicodeEncodeError:
        raise InvalidInput(field, "contains a lone surrogate, which cannot be sent: remove it") from None


def _add_blob(media_type: str, data: bytes, blobs: dict[bytes, Blob]) -> Blob:
    blob = Blob.from_bytes(media_type, data)
    return blobs.setdefault(blob.digest, blob)


def find_blob_references(parts_json: str | None, extra_json: str | None) -> list[bytes]:
    """Return the digests of the binaries in a stored message: those of its parts, and that of a spoken reply."""
    references = []
    if parts_json is not None and BLOB_SCHEME in parts_json:
        parts = json.loads(parts_json)
        references = [part[part["type"]].get(_BLOB_KEYS[part["type"]]) for part in parts if part["type"] in _BLOB_KEYS]
    if extra_json is not None and BLOB_SCHEME in extra_json:
        references.append((json.loads(extra_json)["keys"].get("audio") or {}).get("data"))
    return [
        bytes.fromhex(reference.removeprefix(BLOB_SCHEME))
        for reference in references
        if reference and reference.startswith(BLOB_SCHEME)
    ]


def find_blob_digests(document: str) -> list[bytes]:
    """Return the digests of all binary references in JSON text, wherever they are."""
    return [bytes.fromhex(digest) for digest in re.findall(r'"blob:([0-9a-f]{64})"', document)]


def inline_blobs(messages: Sequence[dict[str, Any]], blobs: Mapping[bytes, Blob]) -> list[dict[str, Any]]:
    """Return messages with every binary reference replaced by its data: URL or base64. The arguments do not change."""
    return [
        _inline_message(message, blobs) if isinstance(message.get("content"), list) else message for message in messages
    ]


def _inline_message(message: dict[str, Any], blobs: Mapping[bytes, Blob]) -> dict[str, Any]:
    return {**message, "content": [_inline_part(part, blobs) for part in message["content"]]}


def _inline_part(part: dict[str, Any], blobs: Mapping[bytes, Blob]) -> dict[str, Any]:
    kind = part["type"]
    key = _BLOB_KEYS.get(kind)
    if key is None or not str(part[kind].get(key, "")).startswith(BLOB_SCHEME):
        return part
    blob = blobs.get(bytes.fromhex(part[kind][key].removeprefix(BLOB_SCHEME)))
    if blob is None:
        return {"type": "text", "text": f"[{kind} erased]"}
    encoded = base64.b64encode(blob.data).decode("ascii")
    value = encoded if kind == "input_audio" else f"data:{blob.media_type};base64,{encoded}"
    return {**part, kind: {**part[kind], key: value}}
