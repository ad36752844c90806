"""Parse the error in a response body, in any vendor's shape.

Known shapes: an object or a text under `error`; the same keys without `error`; FastAPI's `detail`; a gateway's `message`;
HTML from a proxy; an empty body. Texts of the result fit a message or a log: one short line without API keys, because servers
echo the key that they refuse. The part of the request that a validator quotes (`input`) is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from convokit.errors import BadReply
from convokit.wire.json_text import describe_json, parse_json, shorten

_READ_BYTES = 64 * 1024
_MAX_DEPTH = 4
_HTML_TAG = re.compile(r"<(?:script|style)\b[^<]*</(?:script|style)>|<[^<>]*>", re.IGNORECASE)
# In this order: a named key, a vendor's prefix, a JSON web token, a long run of hex digits or letters.
# ASCII only: a Japanese character beside a key is not a part of it.
_SECRET = re.compile(
    r"(?ai)(?P<named>\bbearer\s+(?=[^\s\"',;]*[0-9._~+/=-])|\bapi[-_ ]?key(?:\s+provided)?\s*[:=]\s*[\"']?)"
    r"[^\s\"',;]+[^\s\"',;.]"
    r"|\b(?:(?:sk|gsk|csk|sess|xai|hf|pplx|nvapi)[-_]|AIza)[A-Za-z0-9*_\-]{3}[A-Za-z0-9*_\-.]{3,}[A-Za-z0-9*]"
    r"|\beyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)*"
    r"|(?<![\w-])(?:[0-9a-f]{32}|[A-Za-z0-9]{40,})(?![\w-])"
)
_REPLACEMENT = "[key]"
_STATUS_KEYS = ("status", "status_code", "statusCode", "http_status", "httpStatus", "http_code", "httpCode")
# `429`, `429 Too Many Requests`, `HTTP_429`; DashScope starts messages with `<429>`.
_STATUS_WORD = re.compile(r"\s*(?:<|:?http[\s_/-]*(?:status)?[\s_/:-]*)?([45][0-9]{2})(?![0-9A-Za-z])", re.IGNORECASE)
_NESTED_KEYS = ("metadata", "detail", "details", "innererror")
_SERVER_TEXTS = ("code", "type", "param", "hint", "categories")
_MIN_KEY_CHARS = 8
"""A shorter key, such as "ollama" or "EMPTY", is a placeholder, and its letters are parts of other words."""
# JSON writes a line break before a key as a backslash and an `n`.
_WORD_START = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[bfnrt]))"


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error as the server reports it. Empty or None stands for what it does not report."""

    message: str = ""
    type: str | None = None
    code: str | None = None
    param: str | None = None
    status: int | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    """The error object itself, with the keys that only one vendor has."""


def is_error_payload(payload: dict[str, Any]) -> bool:
    """Whether an object received in place of a reply, or of a chunk, is an error."""
    if payload.get("error") or payload.get("object") in ("error", "Error"):
        return True
    if "choices" in payload or "usage" in payload:
        return False
    if "error" in payload or payload.get("detail"):
        return payload.get("object") is None
    return isinstance(payload.get("message") or payload.get("msg"), str) and not payload.keys().isdisjoint(
        {"code", "type", *_STATUS_KEYS}
    )


def find_choice_error(value: Any) -> dict[str, Any] | None:
    """Return the payload for the value of `error` inside of a choice; None if it reports nothing."""
    reports = any(item not in (None, "") for item in value.values()) if isinstance(value, dict) else bool(value)
    return {"error": value} if reports else None


def describe_finish_failure(reason: str) -> dict[str, Any]:
    """Return the payload for a finish reason that means a failure."""
    code = reason.lower()
    message = f"the server ended the reply with finish_reason {reason!r}"
    return {"error": {"message": message, "code": None if code == "error" else code}}


def parse_error_body(body: bytes) -> ErrorBody:
    """Return the error in a body of any kind."""
    text = body[:_READ_BYTES].decode("utf-8-sig", "replace").strip()
    if not text:
        return ErrorBody()
    if text[0] in "{[":
        try:
            return parse_error_payload(parse_json(text))
        except BadReply:
            return ErrorBody(message=sanitize(text))
    return ErrorBody(message=sanitize(_HTML_TAG.sub(" ", text[:4096]) if text[0] == "<" else text))


def parse_error_payload(payload: Any) -> ErrorBody:
    """Return the error in a JSON value."""
    if isinstance(payload, list) and payload:
        payload = payload[0]
    if not isinstance(payload, dict):
        return ErrorBody(message=sanitize(payload if isinstance(payload, str) else describe_json(payload)))
    error = payload.get("error")
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, dict):
        error = {**payload, "message": payload.get("message") or error} if error else payload
    detail = next((error[key] for key in ("message", "detail", "errors", "msg", "error") if error.get(key)), None)
    message, param = _parse_detail(detail)
    upstream = _parse_upstream_message(error)
    if upstream and upstream not in message:
        message = f"{message}: {upstream}" if message else upstream
    code = _parse_word(error.get("code")) or _parse_word(_get_object(error, "detail").get("code"))
    kind = _parse_word(error.get("type")) or _parse_word(_get_object(error, "metadata").get("error_type"))
    if kind is None and _parse_status(error.get("status")) is None:
        kind = _parse_word(error.get("status"))  # Google's status is a word: INVALID_ARGUMENT
    return ErrorBody(
        message=sanitize(message or describe_json(payload)),
        type=kind,
        code=code,
        param=_parse_word(error.get("param")) or _parse_word(param),
        status=_find_status(error, code, payload),
        raw=error,
    )


def sanitize(text: str) -> str:
    """Return a server's text on one line of at most 500 characters. Texts that look like API keys are replaced."""
    return shorten(_SECRET.sub(lambda match: (match["named"] or "") + _REPLACEMENT, text[:4096]))


def mask_error(error: Exception, key: str | None) -> None:
    """Replace the API key of the call in the error's message and in its attributes with texts of the server.

    No other value is masked: a model, an id, a number or the reply may contain the same letters.
    """
    if key is None or len(key) < _MIN_KEY_CHARS:
        return
    error.args = tuple(_mask_value(each, key) for each in error.args)
    for name in _SERVER_TEXTS:
        if hasattr(error, name):
            setattr(error, name, _mask_value(getattr(error, name), key))


def _mask_value(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {_mask_value(name, key): _mask_value(item, key) for name, item in value.items()}
    if isinstance(value, list):
        return [_mask_value(item, key) for item in value]
    return _mask_text(value, key) if isinstance(value, str) else value


def _mask_text(text: str, key: str) -> str:
    """Return a text without the key where it is a whole word, or a word that was cut off with the text."""
    # A server may quote the key as a part of a URL, or as JSON that escapes slashes.
    for spelling in (key, quote(key, safe=""), key.replace("/", r"\/")):
        text = re.sub(rf"{_WORD_START}{re.escape(spelling)}(?![A-Za-z0-9_-])", _REPLACEMENT, text)
    cut_word = rf"{_WORD_START}{re.escape(key[:_MIN_KEY_CHARS])}[^\s…]*(?=…|$)"
    return re.sub(cut_word, lambda match: _REPLACEMENT if key.startswith(match[0]) else match[0], text)


def _parse_detail(detail: Any, depth: int = 0) -> tuple[str, str]:
    """Return the message in a text, object or list, and the parameter that it names.

    FastAPI lists objects with `loc` (the path of the parameter), `msg` and `input` (a quote of the request).
    """
    if isinstance(detail, str):
        return detail, ""
    if isinstance(detail, dict) and depth < _MAX_DEPTH:
        inner = next((detail[key] for key in ("msg", "message", "detail", "error") if detail.get(key)), "")
        path = detail.get("loc")
        steps = [str(step) for step in path if step != "body"] if isinstance(path, list) else []
        text, param = _parse_detail(inner, depth + 1)
        name = ".".join(steps)
        return (f"{name}: {text}" if name else text), name or param
    if isinstance(detail, list) and depth < _MAX_DEPTH:
        items = [_parse_detail(item, depth + 1) for item in detail[:5]]
        return "; ".join(text for text, _ in items if text), next((param for _, param in items if param), "")
    return "", ""


def _parse_upstream_message(error: dict[str, Any]) -> str:
    """Return the message of the provider behind OpenRouter, whose own message does not repeat it."""
    raw = _get_object(error, "metadata").get("raw")
    if isinstance(raw, str) and raw[:1] in ("{", "["):
        try:
            raw = parse_json(raw)
        except BadReply:
            return raw
    if isinstance(raw, dict):
        return _parse_detail(raw.get("error", raw))[0]
    return raw if isinstance(raw, str) else ""


def _get_object(error: dict[str, Any], key: str) -> dict[str, Any]:
    value = error.get(key)
    return value if isinstance(value, dict) else {}


def _find_status(error: dict[str, Any], code: str | None, payload: dict[str, Any]) -> int | None:
    """Return the HTTP status that an error names in any of its words, the closest one first."""
    words = [error.get("status"), code, *(error.get(key) for key in _STATUS_KEYS[1:])]
    words += [payload.get(key) for key in (*_STATUS_KEYS, "code")]
    words += [_get_object(error, nested).get(key) for nested in _NESTED_KEYS for key in _STATUS_KEYS]
    message = error.get("message")
    if isinstance(message, str) and message.lstrip()[:1] in ("<", ":"):
        words.append(message)
    return next((status for status in map(_parse_status, words) if status is not None), None)


def _parse_word(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return sanitize(str(value))[:120] or None


def _parse_status(value: Any) -> int | None:
    if isinstance(value, str):
        match = _STATUS_WORD.match(value)
        value = int(match[1]) if match else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600 else None
