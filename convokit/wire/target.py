"""Where a request goes and with which headers. No key, password or header value is ever shown in an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from convokit.domain.profile import Profile
from convokit.errors import SettingsError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_OF_THE_BODY = frozenset({"content-length", "transfer-encoding"})
_PATH = "/chat/completions"


def endpoint(base_url: str) -> str:
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


def request_headers(
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
    return headers | checked_headers(extra)


def checked_headers(extra: Mapping[str, str]) -> dict[str, str]:
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
