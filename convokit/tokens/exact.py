"""Count tokens of OpenAI's vocabularies exactly, offline.

The `tokens` extra installs splintr, which contains the vocabularies. Without it, tiktoken is used if it is installed and its
cache has the vocabulary. Nothing is downloaded. Before the first count, the ids of a few texts are compared with known ids.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from convokit.errors import SettingsError

Encoding = Literal["o200k_base", "cl100k_base"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
_Encode = Callable[[str], list[int]]

_KNOWN: dict[Encoding, dict[str, list[int]]] = {
    "o200k_base": {
        "Hello, 世界! It's 12345\n\n\tdef f(): 👩\u200d🚀 <|endoftext|>": [
            13225, 11, 185558, 0, 7744, 220, 7633, 2548, 279, 23154, 285, 9442, 61138, 102, 2524, 112927, 222, 464, 91, 419,
            1440, 919, 91, 29,
        ],
        "東京都の天気は晴れ、最高気温は35度です。": [
            123558, 3385, 867, 25717, 5205, 123139, 9472, 1395, 49935, 25717, 37568, 5205, 2467, 8913, 15121, 788,
        ],
        "오늘은 날씨가 좋습니다. Приве\u0301т ÀÉÎõü  \r\n  x": [
            149830, 4740, 61781, 68282, 4081, 32077, 12020, 13, 14917, 3820, 327, 13430, 338, 27643, 5859, 15774, 1178, 572,
            18668, 220, 1215,
        ],
    },
    "cl100k_base": {
        "Hello, 世界! It's 12345\n\n\tdef f(): 👩\u200d🚀 <|endoftext|>": [
            9906, 11, 220, 3574, 244, 98220, 0, 1102, 596, 220, 4513, 1774, 271, 7604, 282, 4658, 62904, 102, 378, 235, 9468,
            248, 222, 83739, 8862, 728, 428, 91, 29,
        ],
        "東京都の天気は晴れ、最高気温は35度です。": [
            14276, 109, 47653, 72368, 16144, 36827, 95221, 15682, 45114, 112, 33121, 5486, 32335, 45736, 95221, 35086, 102,
            15682, 1758, 27479, 38641, 1811,
        ],
    },
}  # fmt: skip
"""Texts and their ids according to OpenAI's tiktoken."""
_VOCABULARY = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
"""The address of a vocabulary. Its SHA-1 is the file name in tiktoken's cache."""
_SHA256: dict[Encoding, str] = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_PATTERNS: dict[Encoding, str] = {
    "o200k_base": "|".join(
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_ENDINGS}",
            rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_ENDINGS}",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
    "cl100k_base": "|".join(
        (
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        )
    ),
}


class ExactTokens:
    """Counts tokens of o200k_base (GPT-4o and later models) or cl100k_base (GPT-4, GPT-3.5).

    The vocabulary is loaded at the first count (about 50 ms) and shared. Text that looks like a special token counts as text. A
    lone surrogate counts as U+FFFD, which is sent instead.

    Raises: SettingsError if the vocabulary is not installed, or if its ids differ from the known ones.
    """

    def __init__(self, encoding: Encoding = "o200k_base") -> None:
        if encoding not in ENCODINGS:
            raise SettingsError("counter", f"the encoding must be {' or '.join(ENCODINGS)}, not {encoding!r}")
        self.name = encoding
        self._encoding: Encoding = encoding

    def count(self, text: str) -> int:
        """Return the tokens of `text`."""
        encode = _load_encode(self._encoding)
        try:
            return len(encode(text))
        except UnicodeEncodeError:
            return len(encode(_replace_surrogates(text)))


@functools.cache
def is_splintr_installed() -> bool:
    """Return whether the `tokens` extra is installed."""
    return find_spec("splintr") is not None


@functools.cache
def _load_encode(encoding: Encoding) -> _Encode:
    """Return the encoder of splintr, else that of tiktoken. Raises: SettingsError."""
    try:
        encode, package = _load_splintr(encoding), "splintr"
    except ImportError:
        encode, package = _load_tiktoken(encoding), "tiktoken"
    for text, ids in _KNOWN[encoding].items():
        if list(encode(text)) != ids:
            raise SettingsError(
                "counter", f"{package} has a wrong vocabulary {encoding}: its ids for {text!r} differ from tiktoken's"
            )
    return encode


def _load_splintr(encoding: Encoding) -> _Encode:
    tokenizer = importlib.import_module("splintr").Tokenizer.from_pretrained(encoding)
    encode: _Encode = tokenizer.encode_ordinary
    return encode


def _load_tiktoken(encoding: Encoding) -> _Encode:
    # The cache is read here, because tiktoken downloads a missing vocabulary.
    try:
        tiktoken = importlib.import_module("tiktoken")
    except ImportError:
        raise SettingsError("counter", f"{encoding} needs `pip install 'convokit-sql[tokens]'`") from None
    path = _find_cached_file(encoding)
    try:
        data = path.read_bytes()
    except OSError:
        problem = f"there is no vocabulary of tiktoken at {path}: `pip install 'convokit-sql[tokens]'`"
        raise SettingsError("counter", problem) from None
    if hashlib.sha256(data).hexdigest() != _SHA256[encoding]:
        raise SettingsError("counter", f"{path} is not the vocabulary {encoding}: its SHA-256 differs")
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
    encoder = tiktoken.Encoding(encoding, pat_str=_PATTERNS[encoding], mergeable_ranks=ranks, special_tokens={})
    encode: _Encode = encoder.encode_ordinary
    return encode


def _find_cached_file(encoding: Encoding) -> Path:
    """Return the path of a vocabulary in tiktoken's cache."""
    configured = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    folder = Path(tempfile.gettempdir(), "data-gym-cache") if configured is None else Path(configured)
    return folder / hashlib.sha1(_VOCABULARY.format(encoding).encode(), usedforsecurity=False).hexdigest()


def _replace_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
