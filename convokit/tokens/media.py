"""Count the tokens of images, sound and files.

Families of models with known image prices are counted by OpenAI's formulas, others by the worst case. The size is read from the
first bytes of inline data (PNG, JPEG, GIF, WebP, WAV, PDF). An image behind a URL counts as the largest of its level of detail.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from typing import Any

from convokit.domain.profiles import ImageTokens

_HEAD = 512 * 1024
"""Base64 characters of an image that are read. The size of a JPEG comes after its metadata."""
_UNKNOWN_IMAGE = 1500
_UNKNOWN_PATCH = 28
_MOST_UNKNOWN = 16_384
"""Open models take about 1,500 tokens for an image. Those without scaling take 28-pixel patches, 16,384 at most."""
_AUDIO_TOKENS_PER_S = 10
_LOWEST_BYTES_PER_S = 4000
"""The assumed rate of sound of unknown rate: 32 kbit/s, the lowest in common use."""
_PAGE_TEXT = 1000
_MOST_PAGES = 100
_SMALL = 512
_SHORT, _LONG, _TILE = 768, 2048, 512
_PATCH = 32

Size = tuple[int, int]


def count_image_tokens(part: Mapping[str, Any], family: ImageTokens | None) -> int:
    """Return the tokens of an `image_url` part. Without a family, the worst case."""
    image = part.get("image_url")
    if isinstance(image, str):
        image = {"url": image}
    if not isinstance(image, Mapping):
        return _UNKNOWN_IMAGE
    size, detail = read_image_size(str(image.get("url", ""))), str(image.get("detail", "auto"))
    if family is None:
        patches = math.ceil(size[0] / _UNKNOWN_PATCH) * math.ceil(size[1] / _UNKNOWN_PATCH) if size else 0
        return min(max(patches, _UNKNOWN_IMAGE), _MOST_UNKNOWN)
    if family.tile:
        return family.base if detail == "low" else family.base + family.tile * _count_tiles(size)
    return _count_patch_tokens(size, detail, family)


def _count_tiles(size: Size | None) -> int:
    """Return the 512-pixel tiles of an image, scaled to fit into 2,048 by 2,048, then to a short side of 768."""
    if size is None:
        return math.ceil(_SHORT / _TILE) * math.ceil(_LONG / _TILE)
    short, long = sorted(_fit(size, _LONG))
    scale = min(1.0, _SHORT / short)
    return math.ceil(round(short * scale, 3) / _TILE) * math.ceil(round(long * scale, 3) / _TILE)


def _count_patch_tokens(size: Size | None, detail: str, family: ImageTokens) -> int:
    if detail == "auto":
        detail = "original" if family.auto_original and size is not None else "high"
    side, budget = family.side, family.patches
    if detail == "original" and family.original_patches:
        side, budget = family.original_side, family.original_patches
    elif detail == "low" and family.small_low:
        side = _SMALL
    if size is None:
        return math.ceil((min(budget, (side // _PATCH) ** 2) if side else budget) * family.factor)
    width, height = _fit(size, side)
    patches = math.ceil(width / _PATCH) * math.ceil(height / _PATCH)
    return math.ceil(min(patches, budget) * family.factor)


def _fit(size: Size, side: int | None) -> tuple[float, float]:
    scale = min(1.0, side / max(size)) if side else 1.0
    return size[0] * scale, size[1] * scale


def count_audio_tokens(part: Mapping[str, Any]) -> int:
    """Return the tokens of an `input_audio` part, by its length in seconds."""
    audio = part.get("input_audio")
    data = str(audio.get("data", "")) if isinstance(audio, Mapping) else ""
    rate = _read_wav_rate(_decode(data[:1024])) or _LOWEST_BYTES_PER_S
    return math.ceil(len(data) * 0.75 / rate * _AUDIO_TOKENS_PER_S) + 1


def count_file_tokens(part: Mapping[str, Any], family: ImageTokens | None) -> int:
    """Return the tokens of a `file` part. A page of a PDF counts as an image and as text, other files by their bytes."""
    file = part.get("file")
    data = str(file.get("file_data", "")) if isinstance(file, Mapping) else ""
    page = count_image_tokens({"image_url": {"detail": "high"}}, family) + _PAGE_TEXT
    if not data:
        return page
    content = _decode(data.partition(",")[2] if data.startswith("data:") else data)
    if not content.startswith(b"%PDF"):
        return max(len(content), len(data) * 3 // 4) // 2 + 1
    counts = [int(found) for found in re.findall(rb"/Count\s+(\d{1,5})", content)]
    pages = max(len(re.findall(rb"/Type\s*/Page\b", content)), *counts, len(content) // 200_000, 1)
    return page * min(pages, _MOST_PAGES)


def read_image_size(url: str) -> Size | None:
    """Return width and height of an image in a data: URL, in pixels. None for other URLs and unknown formats.

    >>> from convokit.tokens.media import read_image_size
    >>> read_image_size("data:image/gif;base64,R0lGODdhQAHwAA==")
    (320, 240)
    """
    if not url.startswith("data:"):
        return None
    head, _, encoded = url[: _HEAD + 256].partition(",")
    if not head.endswith(";base64"):
        return None
    data = _decode(encoded[:_HEAD])
    size = _read_png_size(data) or _read_gif_size(data) or _read_webp_size(data) or _read_jpeg_size(data)
    return size if size and min(size) > 0 else None


def _decode(text: str) -> bytes:
    """Decode base64 text that may be cut off anywhere. Returns no bytes if it is not base64."""
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def _read_png_size(data: bytes) -> Size | None:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 24:
        return None
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _read_gif_size(data: bytes) -> Size | None:
    if data[:6] not in (b"GIF87a", b"GIF89a") or len(data) < 10:
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _read_webp_size(data: bytes) -> Size | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _read_jpeg_size(data: bytes) -> Size | None:
    """Read the size from the first frame header, after skipping the segments before it."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4]), 2)
    return None


def _read_wav_rate(data: bytes) -> int | None:
    """Read the bytes per second of a WAV file from its format chunk."""
    at = data.find(b"fmt ")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE" or at < 0:
        return None
    return int.from_bytes(data[at + 16 : at + 20], "little") or None
