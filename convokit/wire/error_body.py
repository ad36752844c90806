"""The many shapes of an error answer, read into one: `Fault`.

An object or a text under `error`, the same flat, FastAPI's `detail`, a gateway's `message`, HTML from a proxy, nothing at all.
A fault's texts are fit for a message or a log: one line, cut short, and without anything that looks like a key, because
servers echo the key they refuse. What a validator quotes of the request is never taken over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from convokit.errors import BadReply
from convokit.wire.values import describe_json, parse_json, shorten

_READ_BYTES = 64 * 1024
_HTML_TAG = re.compile(r"<(?:script|style)\b[^<]*</(?:script|style)>|<[^<>]*>", re.IGNORECASE)
_SECRET = re.compile(
    r"(?i)(?P<named>\bbearer\s+(?=[^\s\"',;]*[0-9._~+/=-])|\bapi[-_ ]?key(?:\s+provided)?\s*[:=]\s*[\"']?)"
    r"[^\s\"',;]+[^\s\"',;.]"
    r"|\b(?:(?:sk|gsk|csk|sess|xai|hf|pplx|nvapi)[-_]|AIza)[A-Za-z0-9*_\-]{3}[A-Za-z0-9*_\-.]{3,}[A-Za-z0-9*]"
    r"|\beyJ[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)*"
    r"|(?<![\w-])(?:[0-9a-f]{32}|[A-Za-z0-9]{40,})(?![\w-])"
)
_CUT = "[key]"


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error answer says. `error` is the error object itself, for what only one vendor knows."""

    message: str = ""
    type: str | None = None
    code: str | None = None
    param: str | None = None
    status: int | None = None
    raw: dict[str, Any] = field(default_factory=dict)


def redact_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text on one line of 500 characters at most, without keys."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, _CUT)
    return shorten(_SECRET.sub(lambda found: (found["named"] or "") + _CUT, text[:4096]))


def is_error_payload(payload: dict[str, Any]) -> bool:
    """Whether an object that should be a reply, or a chunk of one, is an error instead."""
    if payload.get("error") or payload.get("object") in ("error", "Error"):
        return True
    if "choices" in payload or "usage" in payload:
        return False
    if "error" in payload or payload.get("detail"):
        return payload.get("object") is None
    return isinstance(payload.get("message"), str) and not payload.keys().isdisjoint(
        {"code", "type", "status", "statusCode"}
    )


def parse_error_body(body: bytes, secrets: Iterable[str] = ()) -> ErrorBody:
    """Return the fault in the body of an answer that failed."""
    text = body[:_READ_BYTES].decode("utf-8-sig", "replace").strip()
    if not text:
        return ErrorBody()
    if text[0] in "{[":
        try:
            return parse_error_payload(parse_json(text), secrets)
        except BadReply:
            return ErrorBody(message=redact_secrets(text, secrets))
    return ErrorBody(message=redact_secrets(_HTML_TAG.sub(" ", text[:4096]) if text[0] == "<" else text, secrets))


def parse_error_payload(payload: Any, secrets: Iterable[str] = ()) -> ErrorBody:
    """Return the fault in an error answer that is JSON."""
    if isinstance(payload, list) and payload:
        payload = payload[0]
    if not isinstance(payload, dict):
        return ErrorBody(
            message=redact_secrets(payload if isinstance(payload, str) else describe_json(payload), secrets)
        )
    error = payload.get("error")
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, dict):
        error = {**payload, "message": payload.get("message") or error} if error else payload
    detail = next((error[key] for key in ("message", "detail", "errors", "msg", "error") if error.get(key)), None)
    message, param = _sentence(detail)
    upstream = _upstream(error)
    if upstream and upstream not in message:
        message = f"{message}: {upstream}" if message else upstream
    code = _word(error.get("code"), secrets) or _word(_inner(error, "detail").get("code"), secrets)
    kind = _word(error.get("type"), secrets) or _word(_inner(error, "metadata").get("error_type"), secrets)
    return ErrorBody(
        message=redact_secrets(message or describe_json(payload), secrets),
        type=kind or (_word(error.get("status"), secrets) if not _status(error.get("status")) else None),
        code=code,
        param=_word(error.get("param"), secrets) or _word(param, secrets),
        status=next(
            filter(None, map(_status, (error.get("status"), code, payload.get("statusCode"), payload.get("status")))),
            None,
        ),
        raw=error,
    )


def _sentence(detail: Any, depth: int = 0) -> tuple[str, str]:
    """Return the sentence in a message, and the parameter it is about. FastAPI lists places and problems; `input`, which
    quotes the request, is left out."""
    if isinstance(detail, str):
        return detail, ""
    if isinstance(detail, dict) and depth < 4:
        inner = next((detail[key] for key in ("msg", "message", "detail", "error") if detail.get(key)), "")
        place = detail.get("loc")
        steps = [str(step) for step in place if step != "body"] if isinstance(place, list) else []
        text, param = _sentence(inner, depth + 1)
        name = ".".join(steps)
        return (f"{name}: {text}" if name else text), name or param
    if isinstance(detail, list) and depth < 4:
        found = [_sentence(item, depth + 1) for item in detail[:5]]
        return "; ".join(text for text, _ in found if text), next((param for _, param in found if param), "")
    return "", ""


def _upstream(error: dict[str, Any]) -> str:
    """Return what the provider behind OpenRouter said, which its own message does not."""
    raw = _inner(error, "metadata").get("raw")
    if isinstance(raw, str) and raw[:1] in ("{", "["):
        try:
            raw = parse_json(raw)
        except BadReply:
            return raw
    if isinstance(raw, dict):
        inner = raw.get("error", raw)
        return _sentence(inner)[0]
    return raw if isinstance(raw, str) else ""


def _inner(error: dict[str, Any], key: str) -> dict[str, Any]:
    value = error.get(key)
    return value if isinstance(value, dict) else {}


def _word(value: Any, secrets: Iterable[str]) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return redact_secrets(str(value), secrets)[:120] or None


def _status(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600 else None
