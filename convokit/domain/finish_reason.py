"""Classify finish reasons in one table.

Servers and gateways write finish reasons in words of their own, in lower or upper case. OpenRouter also reports the word of the
provider behind it, the native finish reason.
"""

from __future__ import annotations

from typing import Literal

FinishKind = Literal["complete", "cut", "filtered", "failed", "unknown"]
"""How a reply ended.

- complete
- cut: at a length limit. The reply is kept, and it is no training data
- filtered: a content filter stopped it
- failed: the server failed
- unknown: the reason is missing, or in no list here. The reply counts as complete
"""
_REASONS: dict[FinishKind, tuple[str, ...]] = {
    "complete": ("stop", "tool_calls", "function_call", "end_turn", "stop_sequence", "tool_use", "eos", "eos_token"),
    "cut": ("length", "max_tokens", "model_context_window_exceeded"),
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
    "failed": ("error", "network_error", "insufficient_system_resource", "abort", "timeout"),
}
_KINDS: dict[str, FinishKind] = {reason: kind for kind, reasons in _REASONS.items() for reason in reasons}
_SEVERITIES: tuple[FinishKind, ...] = ("unknown", "complete", "cut", "filtered", "failed")


def classify_finish_reason(reason: str | None) -> FinishKind:
    """Return the kind of a finish reason, whatever its case."""
    return _KINDS.get((reason or "").lower(), "unknown")


def choose_finish_reason(reason: str | None, native: object) -> str | None:
    """Return the reason that counts: a native one only where it says that the reply is cut, filtered or failed."""
    if not isinstance(native, str):
        return reason
    kind = _SEVERITIES.index(classify_finish_reason(native))
    is_worse = kind > max(_SEVERITIES.index(classify_finish_reason(reason)), _SEVERITIES.index("complete"))
    return native if is_worse else reason
