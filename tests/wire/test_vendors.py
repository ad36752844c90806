"""Tests of every vendor's replies, plain and streamed."""

from __future__ import annotations

import pytest

from convokit.domain.reply import ParsedReply

from .vectors import Vendor, join_text, read
from .vendors import VENDORS

by_name = pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)


def _check(vendor: Vendor, completion: ParsedReply, usage: tuple[int | None, int | None]) -> None:
    answer = completion.choices[0]
    assert (answer.content or "") == vendor.text
    assert answer.reasoning == vendor.reasoning
    assert len(answer.tool_calls) == vendor.calls
    for call in answer.tool_calls:
        assert call["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert completion.done
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == usage
    assert vendor.extra <= answer.extra.keys()


@by_name
def test_b88_the_plain_reply_of_each_vendor_is_parsed(vendor: Vendor) -> None:
    _, completion = read(vendor.plain, streaming=False)
    _check(vendor, completion, vendor.usage)


@by_name
@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_b88_the_stream_of_each_vendor_is_parsed(vendor: Vendor, step: int) -> None:
    """However it is cut into packets."""
    events, completion = read(vendor.stream, step=step)
    assert join_text(events) == vendor.text
    _check(vendor, completion, vendor.stream_usage)


@by_name
def test_b63_plain_and_streamed_replies_are_equal(vendor: Vendor) -> None:
    _, plain = read(vendor.plain, streaming=False)
    _, streamed = read(vendor.stream)
    ours, theirs = plain.choices[0], streamed.choices[0]
    assert (ours.content or "", ours.refusal, ours.reasoning, ours.audio) == (
        theirs.content or "",
        theirs.refusal,
        theirs.reasoning,
        theirs.audio,
    )
    assert (ours.tool_calls, ours.finish_reason) == (theirs.tool_calls, theirs.finish_reason)
    assert (plain.response_id, plain.model, plain.created) == (streamed.response_id, streamed.model, streamed.created)


def test_b80_keys_of_one_vendor_are_stored() -> None:
    """Signatures, native finish reasons, timings, providers and costs."""
    found = {vendor.name: read(vendor.stream)[1] for vendor in VENDORS}
    assert found["openrouter"].extra["provider"] == "Anthropic"
    assert found["openrouter"].usage_details["cost"] == 0.00014
    assert found["openrouter"].choices[0].extra["native_finish_reason"] == "end_turn"
    assert found["openrouter"].choices[0].extra["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Let me see", "signature": "sig", "format": "anthropic-v1", "index": 0}
    ]
    assert found["llama.cpp"].extra["timings"]["cache_n"] == found["llama.cpp"].usage.cached_tokens == 5
    assert found["deepseek"].usage.cached_tokens == 8
    assert found["gemini"].choices[0].tool_calls[0]["extra_content"]["google"]["thought_signature"] == "c2ln"
    assert found["azure"].extra["prompt_filter_results"][0]["prompt_index"] == 0
    assert "obfuscation" not in found["openai"].extra
    assert found["openai"].usage.reasoning_tokens == 1
    assert found["openai"].usage.cache_write_tokens == 0
