"""Classify finish reasons in one table.

Servers and gateways write finish reasons in words of their own: `content_filter`, `content-filter`, `ContentFilter`,
`FinishReason.CONTENT_FILTER`. OpenRouter also reports the word of the provider behind it, the native finish reason.
"""

from __future__ import annotations

import re
from typing import Literal

_SEPARATORS = re.compile(r"[\s_-]+")
FinishKind = Literal["complete", "cut", "filtered", "failed", "unknown"]
"""How a reply ended.

- complete
- cut: at a length limit. The reply is kept, and it is no training data
- filtered: a content filter stopped it
- failed: the server failed
- unknown: the reason is missing, or in no list here. The reply counts as complete
"""
_REASONS: dict[FinishKind, tuple[str, ...]] = {
    "complete": (
        "stop",
        "tool_calls",
        "function_call",
        "end_turn",
        "stop_sequence",
        "tool_use",
        "eos",
        "eos_token",
        "complete",  # Cohere
    ),
    "cut": (
        "length",
        "max_tokens",
        "max_output_tokens",
        "max_length",
        "model_length",  # Mistral
        "token_limit",  # watsonx, and the next one
        "time_limit",
        "error_limit",  # Cohere
        "model_context_window_exceeded",
    ),
    "filtered": (
        "content_filter",
        "content_filtered",  # Bedrock
        "guardrail_intervened",
        "refusal",  # Anthropic: a classifier stopped the reply
        "sensitive",  # Zhipu
        "safety",  # Gemini, and the next seven
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "image_safety",
        "image_prohibited_content",
        "image_recitation",
        "error_toxic",  # Cohere
    ),
    "failed": (
        "error",
        "network_error",
        "server_error",
        "internal_error",
        "insufficient_system_resource",
        "abort",
        "aborted",
        "cancelled",  # TensorRT-LLM and watsonx
        "canceled",
        "user_cancel",  # Cohere
        "timeout",
        "timed_out",
    ),
}
_MISSING = frozenset({"", "null", "none", "unspecified", "finishreasonunspecified"})
"""Words that some gateways write into every chunk before the last one."""


def _simplify(reason: str) -> str:
    """Return the last word of a reason in lower case, without its separators."""
    return _SEPARATORS.sub("", reason.rstrip(".").rpartition(".")[2]).lower()


_KINDS: dict[str, FinishKind] = {_simplify(reason): kind for kind, reasons in _REASONS.items() for reason in reasons}
_SEVERITIES: tuple[FinishKind, ...] = ("unknown", "complete", "cut", "filtered", "failed")


def classify_finish_reason(reason: str | None) -> FinishKind:
    """Return the kind of a finish reason, in whatever spelling."""
    return _KINDS.get(_simplify(reason or ""), "unknown")


def is_finish_reason(value: object) -> bool:
    """Return whether a value says that the reply has ended."""
    return isinstance(value, str) and _simplify(value) not in _MISSING


def choose_finish_reason(reason: str | None, native: object) -> str | None:
    """Return the reason that counts: a native one only where it says that the reply is cut, filtered or failed."""
    if not isinstance(native, str):
        return reason
    kind = _SEVERITIES.index(classify_finish_reason(native))
    is_worse = kind > max(_SEVERITIES.index(classify_finish_reason(reason)), _SEVERITIES.index("complete"))
    return native if is_worse else reason
