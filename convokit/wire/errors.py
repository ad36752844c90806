"""What went wrong, as one of convokit's errors.

The status decides only where the server's own words do not: an overflow, a content filter, a used-up quota and a feature that
is not there are told from whatever status they came with. An error inside an answer that had already begun is not tried again.

Every vendor's way to say that a request holds more tokens than the model takes, read into one ContextOverflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from convokit.domain.reply import ParsedReply, ReplyChoice
from convokit.errors import (
    BadReply,
    ContentFiltered,
    ContextOverflow,
    ModelError,
    QuotaExhausted,
    RateLimited,
    Rejected,
    ServerFailed,
    UnsupportedFeature,
)
from convokit.wire import error_body
from convokit.wire import headers as said
from convokit.wire.error_body import ErrorBody

_NAMES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded", "context_overflow"}
)
_STATUSES = frozenset({None, 200, 400, 413, 422, 500})
_N = r"\(?(\d[\d,]*)"
_SIGNS = re.compile(
    r"maximum (?:context|prompt) length|available context size|longer than the model'?s context length"
    r"|context (?:length|limit|window) exceeded|exceeds? (?:the )?(?:model'?s )?context (?:length|limit|window)"
    r"|exceeds? the context window|context the overflows|(?:prompt|input) is too long|input tokens exceed"
    r"|exceeds the maximum number of tokens allowed|current length is \d+ while limit is|too large for model with"
    r"|reduce the length of the messages",
    re.IGNORECASE,
)
_AVAILABLE = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:context|prompt) (?:length|size|window)(?: is| of(?: only)?)? {_N}",
        rf"context limit: .*> {_N}",
        rf"configured limit of {_N}",
        rf"> {_N} maximum",
        rf"with {_N} maximum context",
        rf"tokens allowed {_N}",
        rf"limit is {_N}",
    )
)
_NEEDED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:resulted in|requested(?: about| a total of)?|at least|contains) {_N} (?:input )?tokens",
        r"(?:input|request|prompt) \((\d[\d,]*) tokens\)",
        r"(?:input length|token count) \((\d[\d,]*)\)",
        rf"too long: {_N}",
        rf"current length is {_N}",
        rf"keep the first {_N} tokens",
    )
)
_QUOTA = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
_FILTERS = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_UNSUPPORTED = frozenset({"unsupported_parameter", "unsupported_value", "not_supported_error"})
_STATUS_OF = {  # for errors inside a 200, which have no status of their own
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "timeout": 408,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "slow_down": 429,
    "server_error": 500,
    "api_error": 500,
    "InternalServerError": 500,
    "not_supported_error": 501,
    "unavailable_error": 503,
    "service_unavailable_error": 503,
    "server_is_overloaded": 503,
    "overloaded_error": 529,
}
_HINTS = (
    (
        r"Function tools with reasoning_effort are not supported",
        "this model calls tools in Chat Completions only with reasoning_effort='none', if it has that: set it, or use another",
    ),
    (r"Use '(\w+)' instead", "send {0} instead"),
    (r"Supported values are: ([^.]{1,200})", "supported values: {0}"),
    (r"does not support tools|tools? (?:use|calling) is not supported", "use a model that can call tools"),
    (r"enable-auto-tool-choice", "start the server with --enable-auto-tool-choice and --tool-call-parser"),
    (r"--jinja", "start llama-server with --jinja"),
    (r"System role not supported", "use a profile with instructions='fold'"),
    (
        r"Unexpected message role|does not support '(?:system|developer)'",
        "use a profile with another role for instructions",
    ),
    (r"roles must alternate", "use a profile with alternate=True"),
)
_OVER_LIMIT = re.compile(r"Limit:? (\d+), Requested:? (\d+)")


def find_overflow(fault: ErrorBody, status: int | None) -> ContextOverflow | None:
    """Return the overflow a fault speaks of, with the numbers it gives; None when it is about something else."""
    named = not _NAMES.isdisjoint({fault.code, fault.type})
    if not named and (status not in _STATUSES or not _SIGNS.search(fault.message)):
        return None
    needed = _number(fault.raw.get("n_prompt_tokens")) or _find(_NEEDED, fault.message)  # llama.cpp says both apart
    available = _number(fault.raw.get("n_ctx")) or _find(_AVAILABLE, fault.message)
    detail = "" if needed and available else fault.message
    return ContextOverflow(needed, available, counter="the server", detail=detail)


def _find(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        found = pattern.search(text)
        if found:
            return _number(int(found[1].replace(",", "")[:15]))
    return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def build_response_error(
    status: int, headers: Mapping[str, str], body: bytes, *, retry_after_now: float, secrets: Iterable[str] = ()
) -> ModelError | ContextOverflow:
    """Return the error in an answer whose status is not 2xx.

    `headers` have lower-case names. `retry_after_now` is the Unix time from which a `retry-after` date is seen. `secrets` are
    cut out of the server's words wherever they appear, as is whatever looks like a key.
    """
    secrets = tuple(secrets)
    facts: dict[str, Any] = {
        "request_id": error_body.redact_secrets(said.parse_request_id(headers) or "", secrets) or None,
        "retry_after_s": said.parse_retry_after_s(headers, retry_after_now),
    }
    if 300 <= status < 400:
        host = urlsplit(headers.get("location", "")).hostname
        return BadReply(
            f"HTTP {status}: the server redirects"
            + (f" to {host}" if host else "")
            + "; keys are not sent along, set base_url",
            status=status,
            **facts,
        )
    error = _classify(error_body.parse_error_body(body, secrets), status, status, facts)
    wish = said.parse_should_retry(headers)
    if wish is not None and isinstance(error, ModelError):
        error.should_retry = wish
    return error


def build_payload_error(
    payload: Any, *, status: int | None = None, partial: str = "", request_id: str | None = None
) -> ModelError | ContextOverflow:
    """Return the error that an error object inside a 200, or inside a stream, stands for.

    `status` is used where the object names none. `partial` is the text that came before it.
    """
    fault = error_body.parse_error_payload(payload)
    shown = fault.status or status
    judged = fault.status or next((_STATUS_OF[word] for word in (fault.code, fault.type) if word in _STATUS_OF), status)
    return _classify(fault, judged, shown, {"partial": partial, "request_id": request_id})


def is_error(payload: dict[str, Any]) -> bool:
    """Whether an object that should be a reply, or a chunk of one, is an error instead."""
    return error_body.is_error_payload(payload)


def find_filter_error(answer: ReplyChoice, completion: ParsedReply) -> ContentFiltered | None:
    """Return the error for an answer that a content filter cut, with what came of it as `partial`; None for any other."""
    if answer.finish_reason != "content_filter":
        return None
    categories: dict[str, Any] = {}
    prompts = completion.extra.get("prompt_filter_results")
    for results in [*(prompts if isinstance(prompts, list) else ()), answer.extra]:
        found = results.get("content_filter_results") if isinstance(results, dict) else None
        categories |= found if isinstance(found, dict) else {}
    return ContentFiltered("a content filter stopped the reply", categories=categories, partial=answer.content or "")


def _classify(
    fault: ErrorBody, judged: int | None, shown: int | None, facts: dict[str, Any]
) -> ModelError | ContextOverflow:
    """Return the error for a fault. `judged` is the status it is judged by, `shown` the one somebody really said."""
    too_long = find_overflow(fault, judged)
    if too_long is not None:
        return too_long
    words = {fault.code, fault.type}
    message = _message(fault, shown)
    facts = {**facts, "status": shown, "code": fault.code, "type": fault.type, "param": fault.param}
    categories = _categories(fault)
    if categories is not None:
        return ContentFiltered(message, categories=categories, **facts)
    if judged == 402 or not words.isdisjoint(_QUOTA):
        return QuotaExhausted(message, **facts)
    if judged == 429:
        return _rate_limited(message, fault, facts)
    hint = _hint(fault, judged)
    if hint is not None:
        return UnsupportedFeature(f"{message} ({hint})" if hint else message, hint=hint, **facts)
    if judged is not None and 400 <= judged < 500 and judged not in (408, 409):
        return Rejected(message, **facts)
    error = ServerFailed(message, **facts)
    if judged is None or judged < 400:  # a failure that nobody named: no reason to believe that trying again helps
        error.should_retry = False
    return error


def _rate_limited(message: str, fault: ErrorBody, facts: dict[str, Any]) -> RateLimited:
    error = RateLimited(message, **facts)
    found = _OVER_LIMIT.search(fault.message)
    if found and int(found[2][:15]) > int(found[1][:15]):  # this one request is larger than a whole minute's allowance
        error.should_retry = False
    return error


def _message(fault: ErrorBody, status: int | None) -> str:
    said_code = fault.code if fault.code and fault.code != str(status) else fault.type
    head = " ".join(filter(None, (f"HTTP {status}" if status else "the server reports an error", said_code)))
    return f"{head}: {fault.message or _phrase(status)}"


def _phrase(status: int | None) -> str:
    try:
        return HTTPStatus(status or 0).phrase
    except ValueError:
        return "no reason given"


def _categories(fault: ErrorBody) -> dict[str, Any] | None:
    """Return what a content filter said of each category; None when no filter spoke."""
    inner = fault.raw.get("innererror")
    inner = inner if isinstance(inner, dict) else {}
    for source in (inner, fault.raw):
        for key in ("content_filter_result", "content_filter_results"):
            if isinstance(source.get(key), dict):
                return dict(source[key])
    blocked = fault.raw.get("misalignment")
    if isinstance(blocked, dict):
        return {"misalignment": {"error_type": blocked.get("error_type")}}
    metadata = fault.raw.get("metadata")
    reasons = metadata.get("reasons") if isinstance(metadata, dict) else None
    if isinstance(reasons, list):  # OpenRouter's moderation; it also quotes the text, which stays out
        return {reason: {"filtered": True} for reason in reasons if isinstance(reason, str)}
    codes = (fault.code, fault.type, inner.get("code"))
    return {} if any(code in _FILTERS for code in codes if isinstance(code, str)) else None


def _hint(fault: ErrorBody, status: int | None) -> str | None:
    """Return what would work instead; None when the fault is not about something that is missing."""
    if status in (401, 403, 404):
        return None
    for pattern, hint in _HINTS:
        found = re.search(pattern, fault.message, re.IGNORECASE)
        if found:
            return hint.format(*found.groups())
    if {fault.code, fault.type}.isdisjoint(_UNSUPPORTED) and status != 501:
        return None
    if fault.code == "unsupported_value":
        return f"leave {fault.param} at its default" if fault.param else ""
    return f"leave {fault.param} out" if fault.param else ""
