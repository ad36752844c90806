"""Tests of the URL and headers of a request."""

from __future__ import annotations

import pytest

from convokit.domain.profiles import Profile, resolve_profile
from convokit.errors import SettingsError
from convokit.wire.headers import build_endpoint_url, build_headers

from .test_request import openai_profile


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://x.openai.azure.com/openai/v1/", "https://x.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://x.openai.azure.com/openai/v1/?api-version=v1",
            "https://x.openai.azure.com/openai/v1/chat/completions?api-version=v1",
        ),
        (
            "https://x.openai.azure.com/openai/deployments/d?api-version=2026-01-01&x=1",
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2026-01-01&x=1",
        ),
        ("http://localhost:11434/v1", "http://localhost:11434/v1/chat/completions"),
        ("http://[::1]:8080", "http://[::1]:8080/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1#frag", "https://h/v1/chat/completions"),
    ],
)
def test_b15_every_base_url_gives_the_endpoint_below_it(base: str, url: str) -> None:
    """Its query is kept."""
    assert build_endpoint_url(base) == url


@pytest.mark.parametrize(
    "base",
    [
        "",
        "api.openai.com/v1",
        "ftp://h/v1",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://user:sekret@h/v1",
        "https://sekret@h/v1",
        "https://h:99999/v1",
        "https://[::1/v1",
        "https://h/v1\n",
        "https://h /v1",
        "//h/v1",
    ],
)
def test_b15_invalid_base_urls_are_refused_without_showing_secrets(base: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build_endpoint_url(base)
    assert "sekret" not in str(caught.value)


def build(profile: Profile | None = None, key: str | None = "k1", stream: bool = False, **extra: str) -> dict[str, str]:
    """Return the headers of a request."""
    return build_headers(profile or Profile(), key, stream=stream, request_id="r1", extra=extra)


def test_headers_of_a_request() -> None:
    assert build() == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": "convokit",
        "X-Client-Request-Id": "r1",
        "Authorization": "Bearer k1",
    }
    assert build(stream=True)["Accept"] == "text/event-stream"
    named = build_headers(Profile(), None, stream=False, request_id="r", extra={}, version="1.2")
    assert named["User-Agent"] == "convokit/1.2"
    assert "Authorization" not in named


def test_headers_follow_the_profile_and_the_caller() -> None:
    """Azure has its own header for the key; extra headers replace others whatever their case."""
    azure = resolve_profile("d", "https://x.openai.azure.com/openai/v1/")
    assert build(azure)["api-key"] == "k1"
    assert "Authorization" not in build(azure)
    assert build(authorization="Token t")["authorization"] == "Token t"
    assert "Authorization" not in build(authorization="Token t")
    assert {name.lower(): value for name, value in build(USER_agent="x").items()}["user_agent"] == "x"
    with pytest.raises(SettingsError, match="api_key"):
        build(openai_profile("gpt-6-luna"), None)
    assert build(openai_profile("gpt-6-luna"), None, Authorization="Bearer t")["Authorization"] == "Bearer t"


@pytest.mark.parametrize(
    "value", ["sekret\r\nX-Evil: 1", "sekret\n", " sekret", "sekret ", "sekret\x00", "sekré", "sekret日"]
)
def test_b74_an_invalid_header_value_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(SettingsError, match="api_key") as caught:
        build(key=value)
    assert "sek" not in str(caught.value)
    with pytest.raises(SettingsError, match="X-Title") as caught:
        build_headers(Profile(), None, stream=False, request_id="r", extra={"X-Title": value})
    assert "sek" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        build_headers(Profile(), None, stream=False, request_id="r", extra={value or "x": "y"})
    assert "sek" not in str(caught.value)
