"""Find the vocabulary of a model by its name.

A name decides alone, whatever server has the model. `~` before a vocabulary says that it is only near: the model has another
one, and this one counts closest to it. ADR 16 has the measured ratios.
"""

from __future__ import annotations

import functools
import re
from typing import Literal, get_args

Vocabulary = Literal["o200k_base", "cl100k_base", "llama3", "qwen3", "deepseek_v3", "mistral_v3", "gemma3"]
"""The vocabularies that are counted exactly."""
VOCABULARIES: tuple[Vocabulary, ...] = get_args(Vocabulary)
NEAR = "~"
"""Before the name of a vocabulary that is not the model's own."""

_SEPARATORS = re.compile(r"[^a-z0-9.]+")
_NO_SIZE = r"(?!.*-\d+(\.\d+)?b(-|$))"  # a name with a size, as gpt4-alpaca-13b, is that of an open model
_PATTERNS: tuple[tuple[str, str], ...] = (
    # A distilled model keeps the vocabulary of the model that it started from. So DeepSeek's distills stand before DeepSeek.
    ("llama3", r"r1-distill-llama|hermes-3(?!\d)"),
    ("qwen3", r"r1-distill-qwen"),
    ("~llama3", r"deepseek.*llama|deepseek-r1-70b"),
    ("~qwen3", r"deepseek.*qwen|deepseek-r1-(1\.5|7|8|14|32)b"),
    ("deepseek_v3", r"deepseek[.-]?((chat-)?v[34](?!\d)|r1(?!\d)|chat|reasoner)"),
    ("llama3", r"llama-?(guard-?)?v?3([.-]?[0-3](?=[.-]|$)|p\d|(?=[.-]|$))"),
    ("~gemma3", r"qwen-?3[.p-]?[5-9](?![\d.]*b)"),
    ("~qwen3", r"(qwen|qwq|qvq).*-(max|plus|turbo|flash)(-|$)"),
    ("qwen3", r"qwen-?(2[.p]?5|2|3)(?!\.?\d|p\d|b)|qwq|qvq|baichuan-?m2"),
    ("gemma3", r"gemma-?(3n?|4)(?!\d|b)|medgemma"),
    # Mistral's SentencePiece models of 32,000 tokens: the first ones, and the large ones of 2024.
    (
        "~cl100k_base",
        r"mistral-(7b|tiny|medium-2312|small-(2312|2402)|large-((instruct-)?24\d\d|123b))|pixtral-large|mixtral",
    ),
    ("~cl100k_base", r"codestral-(22b|2405|mamba)|mamba-codestral|mathstral|mistral(-(latest|instruct|text|v0.*))?$"),
    ("~mistral_v3", r"mistral-small-(instruct-2409|2409|22b)"),
    ("mistral_v3", r"mistral-(nemo|saba|small|medium|large)|ministral|magistral|devstral|codestral|pixtral|voxtral"),
    ("o200k_base", r"gpt-oss|phi-?4-(mini|multimodal)"),
    ("cl100k_base", r"phi-?4(?!\.?\d)|olmo-?[23](?!\d|b)"),
    ("~cl100k_base", r"llama-?v?2(?!\d|b)|llama-(7|13|30|33|65)b|tinyllama|vicuna|code-?llama|phi-?3(?!\d)"),
    ("~deepseek_v3", r"deepseek|kimi|moonshot|moonlight"),
    ("~gemma3", r"[a-z]*gemma|gemini"),
    ("~mistral_v3", r"mistral"),
    ("~o200k_base", r"(chat)?glm"),
    ("~qwen3", r"qwen"),
    ("o200k_base", rf"gpt-?(4-?o(mni)?|4[.-]?[15]|[5-9])(?!\d|[a-z]){_NO_SIZE}"),
    ("o200k_base", rf"(chatgpt|codex|computer-use|gpt-(realtime|audio|image)|^o[1-9])(?![a-z\d]){_NO_SIZE}"),
    ("cl100k_base", rf"gpt-?(4|3[.-]?5)(?!\.?\d|[a-z]){_NO_SIZE}|text-embedding-(3|ada)"),
)
"""Vocabularies and the names that have them. The first pattern that is found decides."""


@functools.lru_cache(maxsize=256)
def find_vocabulary(model: str) -> str | None:
    """Return the vocabulary of `model`, with `~` before one that is only near. None for a name that is not known.

    The name may be that of a provider, a deployment, a fine-tuned model, a file or a tag. A pattern begins where a word of the
    name begins.

    >>> from convokit.domain.vocabularies import find_vocabulary
    >>> [find_vocabulary(model) for model in ("openai/gpt-4o-mini", "glm-4.6", "my-model")]
    ['o200k_base', '~o200k_base', None]
    """
    name = model.strip().lower()
    if name.startswith("ft:"):  # ft:base:organization:suffix:id; the suffix may name another model
        name = name.split(":")[1]
    name = _SEPARATORS.sub("-", re.split(r"[/\\]", name.rstrip("/\\"))[-1])
    return next((vocabulary for vocabulary, pattern in _compile_patterns() if pattern.search(name)), None)


@functools.cache
def _compile_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((vocabulary, re.compile(rf"(?:^|(?<=[.-]))(?:{pattern})")) for vocabulary, pattern in _PATTERNS)
