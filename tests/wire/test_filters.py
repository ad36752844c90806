"""Tests of errors from content filters."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.domain.reply import ParsedReply, ReplyChoice
from convokit.errors import ContentFiltered
from convokit.wire import error_mapping

from .test_errors import build_error, openai_error

AZURE = {
    "error": {
        "message": "The response was filtered due to the prompt triggering a content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {
                "hate": {"filtered": True, "severity": "high"},
                "jailbreak": {"detected": False, "filtered": False},
            },
        },
    }
}


def test_b72_azure_filter_is_content_filtered_with_categories() -> None:
    error = build_error(400, AZURE)
    assert isinstance(error, ContentFiltered)
    assert error.categories["hate"] == {"filtered": True, "severity": "high"}
    assert (error.status, error.param, error.code) == (400, "prompt", "content_filter")
    assert not error.retryable


@pytest.mark.parametrize(
    ("body", "categories"),
    [
        (openai_error("x", code="content_policy_violation"), {}),
        (
            {
                "error": {
                    "code": 403,
                    "message": "flagged",
                    "metadata": {"reasons": ["violence"], "flagged_input": "SECRET"},
                }
            },
            {"violence": {"filtered": True}},
        ),
        (
            {"error": {"message": "blocked", "misalignment": {"error_type": "x", "detailed_explanation": "y"}}},
            {"misalignment": {"error_type": "x"}},
        ),
    ],
)
def test_b72_other_filters_are_content_filtered(body: Any, categories: dict[str, Any]) -> None:
    """OpenAI's policy, OpenRouter's moderation (without the text that it quotes) and blocked actions."""
    error = build_error(403, body)
    assert isinstance(error, ContentFiltered)
    assert error.categories == categories
    assert "SECRET" not in str(error)


def test_b72_finish_reason_content_filter_raises_with_the_partial_text() -> None:
    """The categories are those of prompt and reply."""
    extra = {"content_filter_results": {"violence": {"filtered": True}}}
    answer = ReplyChoice(content="half", finish_reason="content_filter", extra=extra)
    prompt = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}, None]
    error = error_mapping.find_filter_error(answer, ParsedReply([answer], extra={"prompt_filter_results": prompt}))
    assert isinstance(error, ContentFiltered)
    assert error.categories == {"hate": {"filtered": False}, "violence": {"filtered": True}}
    assert error.partial == "half"
    assert error_mapping.find_filter_error(ReplyChoice(finish_reason="stop"), ParsedReply([])) is None
