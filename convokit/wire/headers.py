"""Build the URL and headers of a request, and parse response headers.

Errors never show a key, a password or a header's value. Every response header is optional: an absent or malformed one is None.
Response headers have lower-case names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit, urlunsplit

from convokit.domain.profiles import Profile
from convokit.domain.reply import Allowance, RateLimits
from convokit.errors import SettingsError

# RFC 9110 sections 5.1 and 5.5: a name is a token; a value has no control characters and no blanks at its ends.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
# These two describe the body's bytes: a wrong value corrupts the request.
_SET_BY_HTTP_CLIENT = frozenset({"content-length", "transfer-encoding"})
_PATH = "/chat/completions"

_REQUEST_ID_NAMES = ("x-request-id", "request-id", "apim-request-id", "x-generation-id", "x-litellm-call-id")
_MAX_REQUEST_ID_CHARS = 200
_MAX_DURATION_CHARS = 40
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|μs|ns|h|m|s)")
_DECIMAL = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


def build_endpoint_url(base_url: str) -> str:
    """Return the URL of Chat Completions below a base URL (`https://host/v1`). A query of the base URL is kept.

    Raises: SettingsError if the URL is not http or https, or has a user or password.
    """
    if not isinstance(base_url, str) or not base_url or re.search(r"[\x00-\x20\x7f\ud800-\udfff]", base_url):
        raise SettingsError("base_url", "must be a URL without blanks, such as https://api.openai.com/v1")
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        raise SettingsError("base_url", "is not a URL: its host or port is invalid") from None
    if parts.scheme not in ("http", "https"):
        raise SettingsError("base_url", "must start with https:// or http://")
    if not parts.hostname or port == 0:
        raise SettingsError("base_url", "has no host, or port 0")
    if "@" in parts.netloc:
        raise SettingsError("base_url", "must not contain a user or password; pass api_key, or a header")
    path = parts.path.rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path if path.endswith(_PATH) else path + _PATH, parts.query, ""))


def build_headers(
    profile: Profile,
    api_key: str | None,
    *,
    stream: bool,
    request_id: str,
    extra: Mapping[str, str],
    version: str | None = None,
) -> dict[str, str]:
    """Return the headers of a request. A header in `extra` replaces the one of the same name.

    Raises: SettingsError if the provider needs a key and there is none, and for an invalid header.
    """
    replaced = {name.lower() for name in extra}
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream" if stream else "application/json",
        "User-Agent": f"convokit/{version}" if version else "convokit",
        "X-Client-Request-Id": request_id,
    }
    if profile.auth_header.lower() not in replaced:
        if api_key:
            bearer = profile.auth_header.lower() == "authorization"
            _validate_value("api_key", api_key)
            headers[profile.auth_header] = f"Bearer {api_key}" if bearer else api_key
        elif profile.needs_key:
            raise SettingsError("api_key", f"{profile.provider} needs an API key: pass api_key, or set OPENAI_API_KEY")
    headers = {name: value for name, value in headers.items() if name.lower() not in replaced}
    return headers | validate_headers(extra)


def validate_headers(extra: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the headers. Raises: SettingsError for an invalid one, and for one that the HTTP client sets."""
    for name, value in extra.items():
        if not _NAME.fullmatch(name):
            raise SettingsError("extra_headers", "contains an invalid header name")
        if name.lower() in _SET_BY_HTTP_CLIENT:
            raise SettingsError(f"extra_headers[{name!r}]", "is set by the HTTP client; leave it out")
        _validate_value(f"extra_headers[{name!r}]", value)
    return dict(extra)


def _validate_value(setting: str, value: object) -> None:
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise SettingsError(
            setting,
            "is not a header value: it is empty, starts or ends with whitespace, or contains a line break or a"
            " non-ASCII character",
        )


def parse_rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """Return the limits in `x-ratelimit-*`, or None."""
    limits = RateLimits(requests=_parse_allowance(headers, "requests"), tokens=_parse_allowance(headers, "tokens"))
    return None if limits == RateLimits() else limits


def parse_request_id(headers: Mapping[str, str]) -> str | None:
    """Return the server's id of the request, which its support asks for."""
    return next((headers[name][:_MAX_REQUEST_ID_CHARS] for name in _REQUEST_ID_NAMES if headers.get(name)), None)


def parse_retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait before another attempt, from `retry-after-ms` or `retry-after`.

    `retry-after` is in seconds, or a date (RFC 9110, section 10.2.3). `now` is the Unix time in seconds.
    """
    milliseconds = _parse_decimal(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = _parse_decimal(text)
    if seconds is not None or not text:
        return seconds
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parse_should_retry(headers: Mapping[str, str]) -> bool | None:
    """Return OpenAI's `x-should-retry`, or None."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _parse_allowance(headers: Mapping[str, str], unit: str) -> Allowance:
    return Allowance(
        limit=_parse_whole_number(headers.get(f"x-ratelimit-limit-{unit}")),
        remaining=_parse_whole_number(headers.get(f"x-ratelimit-remaining-{unit}")),
        reset_s=_parse_duration_s(headers.get(f"x-ratelimit-reset-{unit}")),
    )


def _parse_duration_s(text: str | None) -> float | None:
    """Parse a duration in Go's format (`6m0s`, `20ms`). A number without a unit is in seconds (Azure)."""
    text = (text or "").strip()[:_MAX_DURATION_CHARS]
    seconds = _parse_decimal(text)
    if seconds is not None:
        return seconds
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _parse_whole_number(text: str | None) -> int | None:
    number = _parse_decimal(text)
    return int(number) if number is not None and number.is_integer() else None


def _parse_decimal(text: str | None) -> float | None:
    text = (text or "").strip()
    if not text.isascii() or not _DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
