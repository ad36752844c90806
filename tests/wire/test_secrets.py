"""Tests that errors contain no API key and no line break."""

from __future__ import annotations

import pytest

from convokit.errors import ModelError
from convokit.wire import error_mapping

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
    ["Incorrect API key provided: {}. You can find it", "bad Authorization: Bearer {}", "api_key={} x", "key {} is"],
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


def test_b74_the_callers_key_is_removed_whatever_its_form() -> None:
    error = error_mapping.build_response_error(
        401, {"x-request-id": "hunter2"}, b"wrong key hunter2", retry_after_now=NOW, secrets=["hunter2", ""]
    )
    assert isinstance(error, ModelError)
    assert "hunter2" not in str(error) + str(error.request_id)


def test_model_names_request_ids_and_parameters_are_not_removed() -> None:
    text = "The model gpt-6-luna-2026-09-01 does not exist; task-based keys, skip-level (req_0123456789abcdef0123456789abcdef)"
    assert text in str(build_error(404, openai_error(text)))


def test_messages_are_one_short_line() -> None:
    """A server cannot forge a log line, colour a terminal or fill a disk."""
    error = build_error(500, openai_error("a\nERROR forged\x1b[31m\u2028" + "x" * 5000))
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 600
