"""Where a request goes and with which headers. No key, password or header value is ever shown in an error.

What response headers say: who answered, what is left of the limits, when to come back.

Every header is optional and compatible servers send almost none: what is absent or makes no sense is None. Names come in
lower case.
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

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_OF_THE_BODY = frozenset({"content-length", "transfer-encoding"})
_PATH = "/chat/completions"
__all__ = [
    "Allowance",
    "RateLimits",
    "parse_rate_limits",
    "parse_request_id",
    "parse_retry_after_s",
    "parse_should_retry",
]

_REQUEST_IDS = ("x-request-id", "request-id", "apim-request-id", "x-generation-id", "x-litellm-call-id")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|μs|ns|h|m|s)")
_SECONDS = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


def build_endpoint_url(base_url: str) -> str:
    """Return the URL of Chat Completions below a base URL (`https://host/v1`, with or without a slash or a query).

    Raises: SettingsError for anything but http and https, and for a user or password in it.
    """
    if not isinstance(base_url, str) or not base_url or re.search(r"[\x00-\x20\x7f\ud800-\udfff]", base_url):
        raise SettingsError("base_url", "must be a URL without blanks, such as https://api.openai.com/v1")
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        raise SettingsError("base_url", "is not a URL: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https"):
        raise SettingsError("base_url", "must begin with https:// or http://")
    if not parts.hostname or port == 0:
        raise SettingsError("base_url", "names no host")
    if "@" in parts.netloc:
        raise SettingsError("base_url", "must hold no user or password: give api_key, or a header")
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
    """Return the headers of a request; `extra` comes last and replaces any of them.

    Raises: SettingsError when a key is needed and missing, and for a value that cannot be a header's.
    """
    given = {name.lower() for name in extra}
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream" if stream else "application/json",
        "User-Agent": f"convokit/{version}" if version else "convokit",
        "X-Client-Request-Id": request_id,
    }
    if profile.auth_header.lower() not in given:
        if api_key:
            bearer = profile.auth_header.lower() == "authorization"
            _check("api_key", api_key)
            headers[profile.auth_header] = f"Bearer {api_key}" if bearer else api_key
        elif profile.needs_key:
            raise SettingsError("api_key", f"{profile.provider} needs one: pass api_key, or set OPENAI_API_KEY")
    headers = {name: value for name, value in headers.items() if name.lower() not in given}
    return headers | validate_headers(extra)


def validate_headers(extra: Mapping[str, str]) -> dict[str, str]:
    """Return headers that can be sent. Raises: SettingsError for a name or value that cannot, and for those of the body."""
    for name, value in extra.items():
        if not _NAME.fullmatch(name):
            raise SettingsError("extra_headers", "has a name that no header can have")
        if name.lower() in _OF_THE_BODY:
            raise SettingsError(f"extra_headers[{name!r}]", "is decided by the body that is sent")
        _check(f"extra_headers[{name!r}]", value)
    return dict(extra)


def _check(setting: str, value: object) -> None:
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise SettingsError(
            setting, "cannot be a header: it is empty, or holds a line break, an outer blank or a non-ASCII character"
        )


def parse_rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """Return what `x-ratelimit-*` says; None when it says nothing."""
    found = RateLimits(requests=_allowance(headers, "requests"), tokens=_allowance(headers, "tokens"))
    return None if found == RateLimits() else found


def parse_request_id(headers: Mapping[str, str]) -> str | None:
    """Return the id under which the server knows this request."""
    return next((headers[name][:200] for name in _REQUEST_IDS if headers.get(name)), None)


def parse_retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return in how many seconds the server wants to be asked again: `retry-after-ms`, or `retry-after` in seconds or as a
    date, which is seen from `now` (Unix time)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    said = headers.get("retry-after", "")
    seconds = _number(said)
    if seconds is not None or not said:
        return seconds
    try:
        date = parsedate_to_datetime(said)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parse_should_retry(headers: Mapping[str, str]) -> bool | None:
    """Return what the server says of trying again, if it does."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _allowance(headers: Mapping[str, str], what: str) -> Allowance:
    return Allowance(
        limit=_count(headers.get(f"x-ratelimit-limit-{what}")),
        remaining=_count(headers.get(f"x-ratelimit-remaining-{what}")),
        reset_s=_duration(headers.get(f"x-ratelimit-reset-{what}")),
    )


def _duration(text: str | None) -> float | None:
    """Read a duration as Go writes it (`6m0s`, `20ms`); a bare number is seconds (Azure)."""
    said = (text or "").strip()[:40]
    bare = _number(said)
    if bare is not None:
        return bare
    parts = _PART.findall(said)
    if not parts or "".join(number + unit for number, unit in parts) != said:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _count(text: str | None) -> int | None:
    number = _number(text)
    return int(number) if number is not None and number.is_integer() else None


def _number(text: str | None) -> float | None:
    said = (text or "").strip()
    if not said.isascii() or not _SECONDS.fullmatch(said):
        return None
    value = float(said)
    return value if math.isfinite(value) else None
