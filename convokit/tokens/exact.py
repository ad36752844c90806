"""Count tokens with the vocabularies of models, offline.

The `tokens` extra installs splintr, which contains the vocabularies. Without it, tiktoken counts OpenAI's two, if it is
installed and its cache has them. Nothing is downloaded. Before the first count, the ids of a few texts are compared with known
ids.
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

from convokit.domain.vocabularies import NEAR, VOCABULARIES, Vocabulary
from convokit.errors import SettingsError

NEAR_FACTOR = 1.15
"""What counts of a near vocabulary are multiplied by until a server has reported usage."""
_Encode = Callable[[str], list[int]]
_MIXED = "東京の天気は晴れ、12345円です。Hello, it's\n\n\tdef f(): 오늘 Приве\u0301т 👩\u200d🚀 <|endoftext|>"

_KNOWN: dict[Vocabulary, dict[str, list[int]]] = {
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
    "llama3": {
        _MIXED: [
            111344, 16144, 36827, 95221, 15682, 116366, 33121, 5486, 4513, 1774, 35757, 38641, 1811, 9906, 11, 433, 596,
            271, 7604, 282, 4658, 111128, 80584, 28089, 1532, 54939, 1830, 62904, 102, 102470, 9468, 248, 222, 83739, 8862,
            728, 428, 91, 29,
        ],
    },
    "qwen3": {
        _MIXED: [
            102356, 46553, 15767, 35727, 94121, 15322, 105212, 32021, 5373, 16, 17, 18, 19, 20, 34657, 37541, 1773, 9707,
            11, 432, 594, 271, 7452, 282, 4555, 133857, 79484, 26991, 1504, 53839, 1792, 61804, 102, 378, 235, 145836,
            82639, 8691, 723, 427, 91, 29,
        ],
    },
    "deepseek_v3": {
        _MIXED: [
            66771, 1576, 954, 20161, 2841, 16905, 4220, 410, 6895, 1883, 34839, 8262, 320, 19923, 14, 436, 734, 271, 62783,
            285, 24590, 30803, 92855, 16148, 5848, 17793, 407, 52780, 105, 46088, 74287, 225, 818, 94, 523, 2154, 2067, 94,
            32,
        ],
    },
    "mistral_v3": {
        _MIXED: [
            18629, 2439, 6434, 23144, 2312, 4343, 1180, 3010, 1749, 1049, 1050, 1051, 1052, 1053, 19424, 8745, 1320, 22177,
            1044, 1494, 1681, 1267, 48795, 1284, 17680, 37456, 18698, 3833, 1204, 1129, 1361, 119685, 1145, 1169, 29568,
            1240, 1159, 1154, 1128, 1534, 1124, 1474, 2935, 2149, 1124, 1062,
        ],
    },
    "gemma3": {
        _MIXED: [
            31414, 236945, 228212, 237048, 240532, 237137, 236951, 236770, 236778, 236800, 236812, 236810, 238427, 3652,
            236924, 9259, 236764, 625, 236789, 236751, 108, 255968, 2063, 517, 6141, 31694, 15745, 2687, 238288, 236827,
            236743, 243767, 237243, 242015, 655, 236909, 643, 1340, 1005, 111038,
        ],
    },
}  # fmt: skip
"""Texts and their ids, according to OpenAI's tiktoken and to the tokenizers that the models' authors publish."""
_VOCABULARY = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
"""The address of one of OpenAI's vocabularies. Its SHA-1 is the file name in tiktoken's cache."""
_SHA256: dict[str, str] = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_PATTERNS: dict[str, str] = {
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
    """Counts tokens of a vocabulary.

    | vocabulary | models |
    |---|---|
    | `o200k_base` | GPT-4o and later, o1 to o9, gpt-oss, Phi-4-mini |
    | `cl100k_base` | GPT-4, GPT-3.5, Phi-4, OLMo 2 and 3 |
    | `llama3` | Llama 3.0 to 3.3 |
    | `qwen3` | Qwen 2, 2.5 and 3, QwQ |
    | `deepseek_v3` | DeepSeek V3, V4 and R1 |
    | `mistral_v3` | Mistral NeMo and later |
    | `gemma3` | Gemma 3 and 4 |

    `near=True` says that the model has another vocabulary, which counts about the same. The name then begins with `~`.

    The vocabulary is loaded at the first count (12 to 72 ms) and shared. Text that looks like a special token counts as text. A
    lone surrogate counts as U+FFFD, which is sent instead.

    Raises: SettingsError if the vocabulary is not installed, or if its ids differ from the known ones.
    """

    def __init__(self, vocabulary: Vocabulary = "o200k_base", *, near: bool = False) -> None:
        if vocabulary not in VOCABULARIES:
            raise SettingsError("counter", f"the vocabulary must be {', '.join(VOCABULARIES)}, not {vocabulary!r}")
        self.name: str = NEAR + vocabulary if near else vocabulary
        self.first_factor = NEAR_FACTOR if near else 1.0
        self.is_estimate = near
        self._vocabulary: Vocabulary = vocabulary

    def count(self, text: str) -> int:
        """Return the tokens of `text`."""
        encode = _load_encode(self._vocabulary)
        try:
            return len(encode(text))
        except UnicodeEncodeError:
            return len(encode(_replace_surrogates(text)))


@functools.cache
def is_splintr_installed() -> bool:
    """Return whether the `tokens` extra is installed."""
    return find_spec("splintr") is not None


@functools.cache
def _load_encode(vocabulary: Vocabulary) -> _Encode:
    """Return the encoder of splintr, else that of tiktoken. Raises: SettingsError."""
    try:
        encode, package = _load_splintr(vocabulary), "splintr"
    except ImportError:
        encode, package = _load_tiktoken(vocabulary), "tiktoken"
    for text, ids in _KNOWN[vocabulary].items():
        if list(encode(text)) != ids:
            raise SettingsError(
                "counter",
                f"{package} has a wrong vocabulary {vocabulary}: its ids for {text!r} differ from the known ones",
            )
    return encode


def _load_splintr(vocabulary: Vocabulary) -> _Encode:
    tokenizer = importlib.import_module("splintr").Tokenizer.from_pretrained(vocabulary)
    encode: _Encode = tokenizer.encode_ordinary
    return encode


def _load_tiktoken(vocabulary: Vocabulary) -> _Encode:
    # The cache is read here, because tiktoken downloads a missing vocabulary.
    problem = f"{vocabulary} needs `pip install 'convokit-sql[tokens]'`"
    if vocabulary not in _SHA256:  # tiktoken has OpenAI's vocabularies only
        raise SettingsError("counter", problem)
    try:
        tiktoken = importlib.import_module("tiktoken")
    except ImportError:
        raise SettingsError("counter", problem) from None
    path = _find_cached_file(vocabulary)
    try:
        data = path.read_bytes()
    except OSError:
        problem = f"there is no vocabulary of tiktoken at {path}: `pip install 'convokit-sql[tokens]'`"
        raise SettingsError("counter", problem) from None
    if hashlib.sha256(data).hexdigest() != _SHA256[vocabulary]:
        raise SettingsError("counter", f"{path} is not the vocabulary {vocabulary}: its SHA-256 differs")
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
    encoder = tiktoken.Encoding(vocabulary, pat_str=_PATTERNS[vocabulary], mergeable_ranks=ranks, special_tokens={})
    encode: _Encode = encoder.encode_ordinary
    return encode


def _find_cached_file(vocabulary: Vocabulary) -> Path:
    """Return the path of a vocabulary in tiktoken's cache."""
    configured = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    folder = Path(tempfile.gettempdir(), "data-gym-cache") if configured is None else Path(configured)
    return folder / hashlib.sha1(_VOCABULARY.format(vocabulary).encode(), usedforsecurity=False).hexdigest()


def _replace_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
