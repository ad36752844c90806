"""Map an error that a server reports to one of convokit's exceptions.

The error's own code, type and message decide first: an overflow, a content filter, an exhausted quota and a missing feature
arrive under many statuses. The status decides only the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
from convokit.wire.error_body import ErrorBody, parse_error_body, parse_error_payload
from convokit.wire.headers import parse_request_id, parse_retry_after_s, parse_should_retry

_OVERFLOW_NAMES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "context_window_exceeded", "context_overflow"}
)
# Under other statuses the same phrases mean other errors: 429 uses them for a limit of tokens per minute.
_OVERFLOW_STATUSES = frozenset({None, 200, 400, 413, 422, 500})
_N = r"\(?(\d[\d,]*)"
_OVERFLOW_PHRASE = re.compile(
    r"maximum (?:context|prompt) length|available context size|longer than the model'?s context length"
    r"|context (?:length|limit|window) exceeded|exceeds? (?:the )?(?:model'?s )?context (?:length|limit|window)"
    r"|exceeds? the context window|context the overflows|(?:prompt|input) is too long|input tokens exceed"
    r"|exceeds the maximum number of tokens allowed|current length is \d+ while limit is|too large for model with"
    r"|reduce the length of the messages",
    re.IGNORECASE,
)
_AVAILABLE_TOKENS = tuple(
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
_NEEDED_TOKENS = tuple(
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
_QUOTA_NAMES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "Arrearage",
    }
)
_FILTER_NAMES = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "ResponsibleAIPolicyViolation",
        "DataInspectionFailed",
        "data_inspection_failed",
    }
)
_UNSUPPORTED_NAMES = frozenset({"unsupported_parameter", "unsupported_value", "not_supported_error"})
# Codes and types of errors in a 200 response or a stream, which have no status of their own. In lower case and without
# underscores: servers write one name in several ways (`rate_limit_error`, `RateLimitError`). Of a code with dots
# (`Throttling.RateQuota`, `InternalError.Algo.InvalidParameter`), the last word decides, else the first.
_IMPLIED_STATUS = {
    name: status
    for status, names in {
        400: "invalidrequesterror badrequesterror badrequest invalidparameter invalidparametererror invalidargument",
        401: "invalidapikey authenticationerror unauthorized unauthenticated",
        403: "permissionerror permissiondenied permissiondeniederror forbidden accessdenied",
        404: "notfounderror notfound modelnotfound",
        408: "timeout timedout requesttimeout",
        429: "ratelimiterror ratelimitexceeded slowdown toomanyrequests resourceexhausted throttling limitrequests",
        500: "servererror apierror internalservererror internalerror systemerror",
        501: "notsupportederror",
        502: "networkerror badgateway",
        503: "unavailableerror serviceunavailableerror serviceunavailable serverisoverloaded insufficientsystemresource",
        504: "deadlineexceeded gatewaytimeout",
        529: "overloadederror",
    }.items()
    for name in names.split()
}
# In order: the first pattern that the message contains gives the hint.
_HINTS = (
    (
        r"Function tools with reasoning_effort are not supported",
        "this model calls tools only with reasoning_effort='none'; set it if the model accepts it, or use another model",
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
    (
        r"reasoning_content\W.*\b(?:unsupported|unexpected|unknown|not (?:supported|permitted|allowed))",
        "use a Profile without replay_keys and replay_keys_with_calls",
    ),
    (
        r"reasoning_content",
        "set profile='deepseek', or a Profile with reasoning_content in replay_keys: they send the reasoning back",
    ),
    (r"roles must alternate", "use a profile with alternate=True"),
)
_NAMED_THING = re.compile(r"model|deployment", re.IGNORECASE)
_API_VERSION = re.compile(r"/v\d+[a-z0-9]*(/|$)|/deployments/")
"""A version in the path of a URL. Azure's older paths have `/deployments/NAME` in its place."""
_LIMIT_AND_REQUESTED = re.compile(r"Limit:? (\d+), Requested:? (\d+)")


def build_response_error(
    status: int, headers: Mapping[str, str], body: bytes, *, retry_after_now: float
) -> ModelError | ContextOverflow:
    """Return the error for a response whose status is not 2xx.

    Args:
        status: The HTTP status.
        headers: The response headers, with lower-case names.
        body: The body; its first 64 KiB are read.
        retry_after_now: Unix time in seconds. A date in `retry-after` is compared with it.
    """
    facts: dict[str, Any] = {
        "request_id": parse_request_id(headers),
        "retry_after_s": parse_retry_after_s(headers, retry_after_now),
    }
    if 300 <= status < 400:
        host = urlsplit(headers.get("location", "")).hostname
        return BadReply(
            f"HTTP {status}: the server redirects"
            + (f" to {host}" if host else "")
            + "; the API key is not sent to another address, so set base_url to the new one",
            status=status,
            **facts,
        )
    error = _classify(parse_error_body(body), status, status, facts)
    should_retry = parse_should_retry(headers)
    if should_retry is not None and isinstance(error, ModelError):
        error.should_retry = should_retry
    return error


def build_payload_error(
    payload: Any, *, status: int | None = None, partial: str = "", request_id: str | None = None
) -> ModelError | ContextOverflow:
    """Return the error for an error object in a 200 response, or in a stream.

    `status` is used if the object has none. `partial` is the text received before the error.
    """
    body = parse_error_payload(payload)
    shown = body.status or status
    implied = _find_implied_status(body.code) or _find_implied_status(body.type) or status
    return _classify(body, body.status or implied, shown, {"partial": partial, "request_id": request_id})


def _find_implied_status(name: str | None) -> int | None:
    words = (name or "").lower().replace("_", "").replace("-", "").split(".")
    return _IMPLIED_STATUS.get(words[-1]) or _IMPLIED_STATUS.get(words[0])


def add_url_hint(error: ModelError | ContextOverflow, url: str) -> None:
    """Add the URL of the request to an error that a wrong address explains, and ask whether /v1 is missing in it."""
    is_other_page = isinstance(error, BadReply) and error.status == 200 and not error.partial
    if not isinstance(error, ModelError) or not (is_other_page or error.status in (404, 405)):
        return
    if _NAMED_THING.search(f"{error.code} {error}"):  # the address is right: the server looked for a model
        return
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"  # a query may contain a secret
    if not _API_VERSION.search(parts.path):
        error.args = (f"{error} (the request went to {shown}: is /v1 missing in base_url?)",)
    elif not is_other_page:
        error.args = (f"{error} (the request went to {shown})",)


def find_filter_error(choice: ReplyChoice, reply: ParsedReply) -> ContentFiltered | None:
    """Return the error for a choice that a content filter stopped, with its text as `partial`; None for any other choice."""
    if choice.finish_kind != "filtered":
        return None
    categories: dict[str, Any] = {}
    prompts = reply.extra.get("prompt_filter_results")
    for results in [*(prompts if isinstance(prompts, list) else ()), choice.extra]:
        result = results.get("content_filter_results") if isinstance(results, dict) else None
        categories |= result if isinstance(result, dict) else {}
    return ContentFiltered("a content filter stopped the reply", categories=categories, partial=choice.content or "")


def find_overflow(body: ErrorBody, status: int | None) -> ContextOverflow | None:
    """Return the overflow that an error reports, with its token counts; None for any other error."""
    named = not _OVERFLOW_NAMES.isdisjoint({body.code, body.type})
    if not named and (status not in _OVERFLOW_STATUSES or not _OVERFLOW_PHRASE.search(body.message)):
        return None
    # llama.cpp reports both counts as keys of the error object.
    needed = _positive_int(body.raw.get("n_prompt_tokens")) or _find_tokens(_NEEDED_TOKENS, body.message)
    available = _positive_int(body.raw.get("n_ctx")) or _find_tokens(_AVAILABLE_TOKENS, body.message)
    detail = "" if needed and available else body.message
    return ContextOverflow(needed, available, counter="the server", detail=detail)


def _find_tokens(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    for pattern in patterns:
        match = pattern.search(text)
        if match:
            return _positive_int(int(match[1].replace(",", "")[:15]))
    return None


def _positive_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _classify(
    body: ErrorBody, status: int | None, shown_status: int | None, facts: dict[str, Any]
) -> ModelError | ContextOverflow:
    """Return the exception for an error. A code may imply `status`; `shown_status` was really sent."""
    overflow = find_overflow(body, status)
    if overflow is not None:
        return overflow
    message = _format_message(body, shown_status)
    facts = {**facts, "status": shown_status, "code": body.code, "type": body.type, "param": body.param}
    categories = _find_filter_categories(body)
    if categories is not None:
        return ContentFiltered(message, categories=categories, **facts)
    if status == 402 or not _QUOTA_NAMES.isdisjoint({body.code, body.type}):
        return QuotaExhausted(message, **facts)
    if status == 429:
        return _build_rate_limited(message, body, facts)
    hint = _find_hint(body, status)
    if hint is not None:
        return UnsupportedFeature(f"{message} ({hint})" if hint else message, hint=hint, **facts)
    if status is not None and 400 <= status < 500 and status not in (408, 409):
        return Rejected(message, **facts)
    error = ServerFailed(message, **facts)
    if status is None or status < 400:
        error.should_retry = False  # an unknown failure: nothing suggests that another attempt helps
    return error


def _build_rate_limited(message: str, body: ErrorBody, facts: dict[str, Any]) -> RateLimited:
    error = RateLimited(message, **facts)
    match = _LIMIT_AND_REQUESTED.search(body.message)
    if match and int(match[2][:15]) > int(match[1][:15]):
        error.should_retry = False  # this one request is larger than the limit for a whole minute
    return error


def _format_message(body: ErrorBody, status: int | None) -> str:
    name = body.code if body.code and body.code != str(status) else body.type
    head = " ".join(filter(None, (f"HTTP {status}" if status else "the server reports an error", name)))
    return f"{head}: {body.message or _get_status_phrase(status)}"


def _get_status_phrase(status: int | None) -> str:
    try:
        return HTTPStatus(status or 0).phrase
    except ValueError:
        return "no reason given"


def _find_filter_categories(body: ErrorBody) -> dict[str, Any] | None:
    """Return a content filter's result by category; None if the error is not from a filter."""
    inner = body.raw.get("innererror")
    inner = inner if isinstance(inner, dict) else {}
    for source in (inner, body.raw):
        for key in ("content_filter_result", "content_filter_results"):
            if isinstance(source.get(key), dict):
                return dict(source[key])
    blocked = body.raw.get("misalignment")
    if isinstance(blocked, dict):
        return {"misalignment": {"error_type": blocked.get("error_type")}}
    metadata = body.raw.get("metadata")
    reasons = metadata.get("reasons") if isinstance(metadata, dict) else None
    if isinstance(reasons, list):  # OpenRouter's moderation. It also quotes the text, which is left out.
        return {reason: {"filtered": True} for reason in reasons if isinstance(reason, str)}
    codes = (body.code, body.type, inner.get("code"))
    return {} if any(code in _FILTER_NAMES for code in codes if isinstance(code, str)) else None


def _find_hint(body: ErrorBody, status: int | None) -> str | None:
    """Return advice on a feature that the server or model lacks; None for any other error."""
    if status in (401, 403, 404):
        return None  # "model X does not exist, use Y instead" is about access, not about a feature
    for pattern, hint in _HINTS:
        match = re.search(pattern, body.message, re.IGNORECASE)
        if match:
            return hint.format(*match.groups())
    if {body.code, body.type}.isdisjoint(_UNSUPPORTED_NAMES) and status != 501:
        return None
    if body.code == "unsupported_value":
        return f"leave {body.param} at its default" if body.param else ""
    return f"leave {body.param} out" if body.param else ""
