"""Tests of parsing response headers."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from convokit.wire import headers

NOW = 1_764_000_000.0


def test_b73_rate_limits_are_parsed() -> None:
    found = headers.parse_rate_limits(
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6m0s",
        }
    )
    assert found is not None
    assert (found.requests.limit, found.requests.remaining, found.requests.reset_s) == (60, 59, 1.0)
    assert (found.tokens.limit, found.tokens.remaining, found.tokens.reset_s) == (150000, 149984, 360.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("2m59.56s", 179.56),
        ("500µs", 0.0005),
        ("12", 12.0),
        ("", None),
        ("soon", None),
        ("1d", None),
        ("-1s", None),
        ("1s later", None),
        ("2026-11-23T12:00:00Z", None),
    ],
)
def test_b73_durations_are_in_gos_format_or_in_seconds(text: str, seconds: float | None) -> None:
    found = headers.parse_rate_limits({"x-ratelimit-reset-tokens": text, "x-ratelimit-limit-tokens": "1"})
    assert found is not None
    assert found.tokens.reset_s == pytest.approx(seconds)


@pytest.mark.parametrize("said", [{}, {"x-ratelimit-limit-tokens": "many"}, {"content-type": "x"}])
def test_b73_absent_headers_are_none(said: dict[str, str]) -> None:
    assert headers.parse_rate_limits(said) is None
    assert headers.parse_request_id(said) is None
    assert headers.parse_retry_after_s(said, NOW) is None
    assert headers.parse_should_retry(said) is None


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": "Mon, 99 Foo 2026 99:99:99 GMT"}, None),
    ],
)
def test_b68_retry_after_in_its_three_forms(said: dict[str, str], seconds: float | None) -> None:
    """Milliseconds count before seconds, and seconds before a date."""
    assert headers.parse_retry_after_s(said, NOW) == seconds


@pytest.mark.parametrize(("text", "wish"), [("true", True), ("false", False), ("TRUE", True), ("maybe", None)])
def test_b68_should_retry_is_true_or_false(text: str, wish: bool | None) -> None:
    assert headers.parse_should_retry({"x-should-retry": text}) is wish
