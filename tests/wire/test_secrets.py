"""Tests that errors contain no API key and no line break."""

from __future__ import annotations

import json

import pytest

from convokit.errors import ContentFiltered, ContextOverflow, ModelError, Rejected
from convokit.wire import error_mapping
from convokit.wire.error_body import mask_error

from .test_errors import NOW, build_error, openai_error

KEYS = [
    "sk-proj-abcDEF123456789_xyz",
    "sk-abc1*********************wxyz",
    "sk-or-v1-0123456789abcdef",
    "gsk_ABCDEFGHIJKL0123",
    "0123456789abcdef0123456789abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def_1",
    "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0U1v2W3x4",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: {}. You can find it",
        "bad Authorization: Bearer {}",
        "api_key={} x",
        "key {} is",
        "キー{}は無効です",
    ],
)
def test_b74_keys_in_a_servers_message_are_removed(text: str, key: str) -> None:
    said = text.format(key)
    for body in (
        openai_error(said, code="invalid_api_key"),
        said.encode(),
        {"detail": said},
        {"error": {"message": "x", "code": said}},
    ):
        error = build_error(401, body)
        assert key not in str(error) + str(error.code)
        assert key not in repr(error)
        assert key[:12] not in str(error)


def build_masked_error(key: str, body: bytes, headers: dict[str, str] | None = None) -> ModelError:
    error = error_mapping.build_response_error(401, headers or {}, body, retry_after_now=NOW)
    mask_error(error, key)
    assert isinstance(error, ModelError)
    return error


@pytest.mark.parametrize(
    "text",
    [
        "wrong key {}",
        "{}",
        "キーは{}です",
        'header "Bearer {}".',
        "first line\n{}",
        "https://host/?key={}&x=1",
        "x" * 460 + " {}",
        "x" * 480 + " {}",
    ],
)
def test_b74_the_callers_key_is_removed_as_a_word(text: str) -> None:
    """The key of the call is masked beside any character that no key contains, also when the text is cut inside the key."""
    key = "hunter-2-of-the-north"
    said = text.format(key)
    for body in (said.encode(), json.dumps({"error": {"message": said}}).encode(), json.dumps({"x": said}).encode()):
        error = build_masked_error(key, body)
        assert key[:8] not in str(error)
        assert "[key]" in str(error)


def test_b74_the_callers_key_is_removed_from_the_details_of_an_error() -> None:
    key = "hunter-2-of-the-north"
    filtered = {"violence": {"filtered": True, "by": [key]}}
    body = {"message": "no", "code": key, "type": f"bad {key}", "param": key, "content_filter_result": filtered}
    error = build_masked_error(key, json.dumps({"error": body}).encode())
    assert isinstance(error, ContentFiltered)
    assert (error.code, error.type, error.param) == ("[key]", "bad [key]", "[key]")
    assert error.categories == {"violence": {"filtered": True, "by": ["[key]"]}}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("token", "at most 8192 tokens"),
        ("ollama", "try: ollama pull llama9"),
        ("1", "10213 of 8192"),
        ("1234567", "key 1234567"),
        ("tokenizer", "the tokenizers differ; pretokenizer and tokenizer_2 too"),
        ("lm-studio", "lm-studio-community/qwen"),
    ],
)
def test_b74_a_short_key_or_a_part_of_a_word_stays(key: str, text: str) -> None:
    """A placeholder such as "ollama" is cut out of no text, and no key is cut out of a longer word."""
    assert text in str(build_masked_error(key, text.encode()))


def test_b74_an_id_and_a_number_are_not_masked() -> None:
    """The request id and the counts of an overflow come as the server sent them, whatever the key is."""
    error = build_masked_error("req-12345678", b"no", {"x-request-id": "req-12345678"})
    assert error.request_id == "req-12345678"
    text = (
        b"This model's maximum context length is 12345678 tokens. However, your messages resulted in 99999999 tokens."
    )
    overflow = error_mapping.build_response_error(400, {}, text, retry_after_now=NOW)
    mask_error(overflow, "12345678")
    assert isinstance(overflow, ContextOverflow)
    assert (overflow.needed, overflow.available) == (99_999_999, 12_345_678)


def test_b74_a_request_id_of_hex_digits_stays() -> None:
    """Some servers number requests with 32 hex digits, which look like a key."""
    found = build_masked_error("sk-0", b"no", {"x-request-id": "0123456789abcdef0123456789abcdef"})
    assert found.request_id == "0123456789abcdef0123456789abcdef"


def test_model_names_request_ids_and_parameters_are_not_removed() -> None:
    text = "The model gpt-6-luna-2026-09-01 does not exist; task-based keys, skip-level (req_0123456789abcdef0123456789abcdef)"
    assert text in str(build_error(404, openai_error(text)))


def test_messages_are_one_short_line() -> None:
    """A server cannot forge a log line, colour a terminal or fill a disk."""
    error = build_error(500, openai_error("a\nERROR forged\x1b[31m\u2028" + "x" * 5000))
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("spelling", ["pj.Zx9-Lm/abc+def==", "pj.Zx9-Lm%2Fabc%2Bdef%3D%3D", r"pj.Zx9-Lm\/abc+def=="])
def test_a_key_that_a_server_escapes_is_masked(spelling: str) -> None:
    error = Rejected(f"鍵 {spelling} と", status=401, code=spelling)
    mask_error(error, "pj.Zx9-Lm/abc+def==")
    assert (str(error), error.code) == ("鍵 [key] と", "[key]")
