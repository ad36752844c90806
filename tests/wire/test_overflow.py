"""Tests of context overflows in every vendor's words."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.errors import ContextOverflow, RateLimited, Rejected
from convokit.wire import error_mapping

from .test_errors import build_error, openai_error

OVERFLOWS = [
    (
        400,
        openai_error(
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 204308 tokens. "
            "Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        ),
        204308,
        128000,
    ),
    (
        400,
        openai_error(
            "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 477469 tokens. "
            "Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        ),
        477469,
        272000,
    ),
    (
        400,
        openai_error(
            "This model's maximum context length is 4096 tokens. However, you requested 512 output tokens and your prompt "
            "contains at least 3585 input tokens, for a total of at least 4097 tokens.",
            "BadRequestError",
            "input_tokens",
            400,
        ),
        3585,
        4096,
    ),
    (
        400,
        {
            "object": "error",
            "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        5000,
        4096,
    ),
    (
        400,
        {
            "object": "error",
            "message": "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total "
            "of 5000 tokens: 4000 tokens from the input messages and 1000 tokens for the completion.",
            "code": 400,
        },
        5000,
        4096,
    ),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9000,
                "n_ctx": 8192,
            }
        },
        9000,
        8192,
    ),
    (
        400,
        {"error": {"code": 400, "message": "request (9000 tokens) exceeds the available context size (8192 tokens)"}},
        9000,
        8192,
    ),
    (
        400,
        {
            "error": "Trying to keep the first 111490 tokens when context the overflows. However, the model is loaded with "
            "context length of only 32768 tokens, which is not enough."
        },
        111490,
        32768,
    ),
    (
        400,
        {
            "error": {
                "message": "This endpoint's maximum context length is 131072 tokens. However, you requested "
                "about 138956 tokens "
                "(7884 of text input, 131072 in the output).",
                "code": 400,
            }
        },
        138956,
        131072,
    ),
    (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {"raw": '{"error":{"message":"prompt is too long: 213462 tokens > 200000 maximum"}}'},
            }
        },
        213462,
        200000,
    ),
    (400, {"error": {"message": "x", "code": 400, "metadata": {"error_type": "context_length_exceeded"}}}, None, None),
    (
        400,
        {"message": "Prompt contains 300000 tokens, too large for model with 131072 maximum context length"},
        300000,
        131072,
    ),
    (400, openai_error("Input length (265330) exceeds model's maximum context length (262144)."), 265330, 262144),
    (
        400,
        openai_error("The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)."),
        1196265,
        1048575,
    ),
    (400, openai_error("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"), None, 200000),
    (400, openai_error("current length is 5000 while limit is 4096"), 5000, 4096),
    (
        400,
        openai_error("This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
        537812,
        131072,
    ),
    (413, openai_error("Please reduce the length of the messages or completion."), None, None),
]


@pytest.mark.parametrize(("status", "body", "needed", "available"), OVERFLOWS)
def test_b71_the_overflow_of_each_vendor_is_a_context_overflow(
    status: int, body: Any, needed: int | None, available: int | None
) -> None:
    """With its token counts, and also in a 200."""
    for error in (build_error(status, body), error_mapping.build_payload_error(body)):
        assert isinstance(error, ContextOverflow)
        assert (error.needed, error.available) == (needed, available)
        assert error.counter == "the server"


def test_b71_other_limits_are_other_errors() -> None:
    assert isinstance(
        build_error(429, openai_error("Request too large: maximum context length Limit 1, Requested 2")), RateLimited
    )
    assert isinstance(build_error(400, openai_error("string too long", code="string_above_max_length")), Rejected)
    assert isinstance(build_error(404, openai_error("no model with maximum context length")), Rejected)
