"""Tests of mapping a server's errors to exceptions."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from convokit.errors import (
    BadReply,
    ContentFiltered,
    ModelError,
    QuotaExhausted,
    RateLimited,
    Rejected,
    ServerFailed,
    UnsupportedFeature,
)
from convokit.wire import error_body, error_mapping

NOW = 1_764_000_000.0


def build_error(status: int, body: Any, **headers: str) -> Any:
    """Return the exception for a response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_mapping.build_response_error(status, named, data, retry_after_now=NOW)


def openai_error(
    message: str, type: str | None = "invalid_request_error", param: str | None = None, code: Any = None
) -> Any:
    """Return an error body as OpenAI sends it."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


ENVELOPES = [
    (
        openai_error("no good", param="model", code="model_not_found"),
        "model_not_found",
        "invalid_request_error",
        "model",
    ),
    (openai_error("no good", "BadRequestError", None, 400), "400", "BadRequestError", None),
    ({"error": {"message": "no good", "code": "500", "type": None, "param": None}}, "500", None, None),
    ({"error": "no good"}, None, None, None),
    ({"error": {"message": "no good"}, "error_type": "x"}, None, None, None),
    (
        {"object": "error", "message": "no good", "type": "BadRequestError", "param": None, "code": 400},
        "400",
        "BadRequestError",
        None,
    ),
    ({"object": "error", "message": "no good", "type": "invalid_model", "code": "3280"}, "3280", "invalid_model", None),
    ({"detail": "no good"}, None, None, None),
    ({"detail": [{"loc": ["body", "messages", 0], "msg": "no good", "input": "SECRET"}]}, None, None, "messages.0"),
    (
        {"object": "error", "message": {"detail": [{"loc": ["body", "n"], "msg": "no good", "input": "SECRET"}]}},
        None,
        None,
        "n",
    ),
    ({"message": "no good"}, None, None, None),
    ({"statusCode": 422, "message": "no good"}, None, None, None),
    (
        {"error": {"code": "BadRequest", "message": "no good", "innererror": {"code": "X"}, "status": 400}},
        "BadRequest",
        None,
        None,
    ),
    (
        {"error": {"message": "Provider returned error", "code": 422, "metadata": {"raw": '{"message":"no good"}'}}},
        "422",
        None,
        None,
    ),
    ({"error": {"code": 422, "message": "no good", "status": "INVALID_ARGUMENT"}}, "422", "INVALID_ARGUMENT", None),
    ([{"error": {"code": 422, "message": "no good"}}], "422", None, None),
    ({"errors": [{"message": "no good"}]}, None, None, None),
    (b"no good", None, None, None),
    (b"<html><body><h1>no good</h1></body></html>", None, None, None),
    (b'{"error": no good', None, None, None),
]


@pytest.mark.parametrize(("body", "code", "type", "param"), ENVELOPES)
def test_b66_every_shape_of_an_error_body_is_parsed(
    body: Any, code: str | None, type: str | None, param: str | None
) -> None:
    """Status, code (a text), type, param, message and request id are found in each."""
    error = build_error(422, body, x_request_id="req_1")
    assert isinstance(error, Rejected)
    assert "no good" in str(error)
    assert "SECRET" not in str(error)
    assert "422" in str(error)
    assert (error.status, error.code, error.type, error.param) == (422, code, type, param)
    assert error.request_id == "req_1"
    assert not error.retryable


@pytest.mark.parametrize("body", [b"", b"  \n", b"\xff\xfe", b"null", b"[]", b"{}", b'""', b"[" * 5000])
def test_b66_an_empty_or_invalid_body_is_an_error_with_its_status(body: bytes) -> None:
    error = build_error(502, body)
    assert isinstance(error, ServerFailed)
    assert "502" in str(error)
    assert (error.status, error.request_id, error.retry_after_s) == (502, None, None)
    assert error.retryable


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Rejected),
        (401, Rejected),
        (402, QuotaExhausted),
        (403, Rejected),
        (404, Rejected),
        (408, ServerFailed),
        (409, ServerFailed),
        (413, Rejected),
        (422, Rejected),
        (429, RateLimited),
        (500, ServerFailed),
        (501, UnsupportedFeature),
        (502, ServerFailed),
        (503, ServerFailed),
        (504, ServerFailed),
        (529, ServerFailed),
        (302, BadReply),
        (307, BadReply),
        (418, Rejected),
        (599, ServerFailed),
    ],
)
def test_b66_the_status_decides_if_the_body_does_not(status: int, kind: type[ModelError]) -> None:
    error = build_error(status, {"error": {"message": "x"}})
    assert type(error) is kind
    assert error.status == status


def test_b66_request_ids_of_other_servers() -> None:
    """Azure, OpenRouter and LiteLLM have headers of their own."""
    for header in ("apim_request_id", "x_generation_id", "x_litellm_call_id", "request_id"):
        assert build_error(500, b"", **{header: "r1"}).request_id == "r1"


def test_b66_a_redirect_names_only_its_host() -> None:
    """The query of the address may contain a key."""
    error = build_error(307, b"", location="https://eu.example.com/v1/chat/completions?key=sekret")
    assert "eu.example.com" in str(error)
    assert "sekret" not in str(error)


QUOTA = ["insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded"]
QUOTA += ["project_spend_limit_exceeded", "organization_usage_limit_exceeded"]


@pytest.mark.parametrize("code", QUOTA)
def test_b68_an_exhausted_quota_is_not_retryable(code: str) -> None:
    """Its code or its type distinguishes it from a rate limit, which is a 429 too."""
    for body in (
        openai_error("You exceeded your current quota", "insufficient_quota", None, code),
        openai_error("x", None, None, code),
    ):
        error = build_error(429, body, retry_after="1")
        assert isinstance(error, QuotaExhausted)
        assert not error.retryable


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "slow_down", None])
def test_b68_a_rate_limit_is_retryable(code: str | None) -> None:
    error = build_error(
        429, openai_error("Rate limit reached", "requests", None, code), retry_after="7", x_should_retry="true"
    )
    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, error.should_retry, error.retryable) == (7.0, True, True)


def test_b68_a_request_larger_than_the_limit_per_minute_is_not_retried() -> None:
    text = "Request too large for gpt-6 on tokens per min (TPM): Limit 30000, Requested {}."
    assert (
        build_error(429, openai_error(text.format(40000), "tokens", None, "rate_limit_exceeded")).should_retry is False
    )
    assert build_error(429, openai_error(text.format(4000), "tokens", None, "rate_limit_exceeded")).should_retry is None


TOOLS_TEXT = (
    "Function tools with reasoning_effort are not supported for gpt-6-sol in /v1/chat/completions. "
    "To use function tools, use /v1/responses or set reasoning_effort to 'none'."
)


def test_b09_tools_with_reasoning_are_an_unsupported_feature_with_a_hint() -> None:
    error = build_error(400, openai_error(TOOLS_TEXT, param="reasoning_effort"))
    assert isinstance(error, UnsupportedFeature)
    assert "reasoning_effort='none'" in error.hint
    assert error.param == "reasoning_effort"


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (
            400,
            openai_error(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                param="max_tokens",
                code="unsupported_parameter",
            ),
            "max_completion_tokens",
        ),
        (
            400,
            openai_error(
                "Unsupported value: 'temperature' does not support 0.1 with this model. "
                "Only the default (1) value is supported.",
                param="temperature",
                code="unsupported_value",
            ),
            "leave temperature at its default",
        ),
        (
            400,
            openai_error("Unsupported parameter: 'stop'", param="stop", code="unsupported_parameter"),
            "leave stop out",
        ),
        (
            400,
            openai_error(
                "Unsupported value: 'reasoning_effort' does not support 'xhigh'. Supported values are: 'low', 'high'.",
                param="reasoning_effort",
                code="unsupported_value",
            ),
            "'low', 'high'",
        ),
        (
            400,
            openai_error(
                "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                code="unsupported_value",
            ),
            "role",
        ),
        (400, {"error": {"message": "registry.ollama.ai/library/phi does not support tools"}}, "tools"),
        (
            500,
            {"error": {"code": 500, "message": "tools param requires --jinja flag", "type": "server_error"}},
            "--jinja",
        ),
        (400, openai_error('"auto" tool choice requires --enable-auto-tool-choice'), "--enable-auto-tool-choice"),
        (
            500,
            {"error": {"code": 500, "message": "System role not supported at row 1", "type": "server_error"}},
            "fold",
        ),
        (400, openai_error("Conversation roles must alternate user/assistant/user/assistant/..."), "alternate"),
        (501, {"error": {"code": 501, "message": "no embeddings", "type": "not_supported_error"}}, ""),
    ],
)
def test_unsupported_features_have_a_hint(status: int, body: Any, hint: str) -> None:
    error = build_error(status, body)
    assert isinstance(error, UnsupportedFeature)
    assert hint in error.hint
    assert not error.retryable


def test_errors_keep_their_attributes_when_pickled() -> None:
    error = pickle.loads(
        pickle.dumps(build_error(429, openai_error("x", code="slow_down"), retry_after="3", x_should_retry="false"))
    )
    assert (error.status, error.code, error.retry_after_s, error.should_retry) == (429, "slow_down", 3.0, False)


def test_an_unknown_error_in_a_200_is_not_retried() -> None:
    unknown = error_mapping.build_payload_error({"error": "boom"}, partial="so far", request_id="r")
    assert isinstance(unknown, ServerFailed)
    assert (unknown.should_retry, unknown.partial, unknown.request_id, unknown.status) == (False, "so far", "r", None)
    known = error_mapping.build_payload_error({"error": {"message": "boom", "type": "server_error"}})
    assert isinstance(known, ServerFailed)
    assert known.should_retry is None


def test_an_unknown_model_is_rejected() -> None:
    """Also if the server recommends another one."""
    for status in (401, 403, 404):
        assert (
            type(build_error(status, openai_error("The model 'gpt-0' does not exist. Use 'gpt6' instead."))) is Rejected
        )


@pytest.mark.parametrize("code", [[1], {"a": 1}, None, 7])
def test_an_inner_code_may_have_any_type(code: object) -> None:
    assert isinstance(build_error(400, {"error": {"message": "no", "innererror": {"code": code}}}), Rejected)


STATUS_WORDS: list[tuple[dict[str, Any], type[ModelError], int | None]] = [
    ({"error": {"message": "m", "status_code": 429}}, RateLimited, 429),
    ({"error": {"message": "m", "statusCode": "401"}}, Rejected, 401),
    ({"error": {"message": "m", "http_status": 429}}, RateLimited, 429),
    ({"error": {"message": "m", "httpCode": 403}}, Rejected, 403),
    ({"error": {"message": "m", "metadata": {"status_code": 429}}}, RateLimited, 429),
    ({"error": {"message": "m"}, "status_code": 401}, Rejected, 401),
    ({"error": {"message": "m"}, "code": 429}, RateLimited, 429),
    ({"error": "混雑", "http_code": 429}, RateLimited, 429),
    ({"status_code": 429, "message": "m"}, RateLimited, 429),
    ({"code": "Throttling", "message": "m", "request_id": "r"}, RateLimited, None),
    ({"code": "Throttling.RateQuota", "message": "m"}, RateLimited, None),
    ({"code": "InvalidApiKey", "message": "m"}, Rejected, None),
    ({"code": "Model.AccessDenied", "message": "m"}, Rejected, None),
    ({"code": "InvalidParameter.NotSupported", "message": "m"}, Rejected, None),
    ({"code": "Arrearage", "message": "m"}, QuotaExhausted, None),
    ({"code": "DataInspectionFailed", "message": "m"}, ContentFiltered, None),
    ({"code": "InternalError.Algo", "message": "m"}, ServerFailed, None),
    ({"error": {"message": "m", "type": "RateLimitError"}}, RateLimited, None),
    ({"error": {"message": "m", "status": "RESOURCE_EXHAUSTED"}}, RateLimited, None),
    ({"error": {"message": "m", "status": "UNAUTHENTICATED"}}, Rejected, None),
    ({"code": "InternalError.Algo.InvalidParameter", "message": "m"}, Rejected, None),
    ({"error": {"message": "<429> InternalError.Algo: m"}}, RateLimited, 429),
    ({"error": {"message": ":HTTP_STATUS/401 m"}}, Rejected, 401),
    ({"error": {"message": "429 words of a text"}}, ServerFailed, None),
    ({"error": {"message": "m", "code": "429 Too Many Requests"}}, RateLimited, 429),
    ({"error": {"message": "m", "code": "HTTP_401"}}, Rejected, 401),
    ({"error": {"message": "m", "code": "400001"}}, ServerFailed, None),
    ({"error": {"message": "m", "code": "٤٢٩"}}, ServerFailed, None),
    ({"code": 429, "msg": "混雑"}, RateLimited, 429),
    ({"error": {"message": "m", "status_code": 200}}, ServerFailed, None),
    ({"error": {"message": "m", "status_code": True}}, ServerFailed, None),
]


@pytest.mark.parametrize(("payload", "kind", "status"), STATUS_WORDS, ids=range(len(STATUS_WORDS)))
def test_a_status_in_other_words(payload: dict[str, Any], kind: type[ModelError], status: int | None) -> None:
    """An error in a 200 names its status in many ways, or by a code."""
    assert error_body.is_error_payload(payload)
    error = error_mapping.build_payload_error(payload)
    assert type(error) is kind
    assert isinstance(error, ModelError)
    assert error.status == status


def test_the_status_of_the_response_comes_first() -> None:
    assert isinstance(build_error(401, {"error": {"message": "m", "status_code": 429}}), Rejected)


@pytest.mark.parametrize(
    "message",
    [
        "Missing `reasoning_content` field in the assistant message at message index 1",
        "The reasoning_content in the thinking mode must be passed back to the API.",
    ],
)
def test_missing_reasoning_names_the_way_out(message: str) -> None:
    error = build_error(400, openai_error(message))
    assert isinstance(error, UnsupportedFeature)
    assert "profile='deepseek'" in str(error)


def test_refused_reasoning_names_the_way_out() -> None:
    error = build_error(400, openai_error("property 'reasoning_content' is unsupported"))
    assert isinstance(error, UnsupportedFeature)
    assert "without replay_keys" in error.hint
