"""Convert errors into answers with the error envelope of the API."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from convokit import errors
from convokit.domain.message import USER
from convokit.domain.text import repair_text

log = logging.getLogger("convokit.server")
NO_RETRY = {"x-should-retry": "false"}
"""Clients of OpenAI repeat 409, 429 and 5xx by themselves unless this header forbids it."""
_API_NAMES = {
    "message": "messages",
    "history": "messages",
    "tool_results": "messages",
    "api_metadata": "metadata",
    "subject": USER,
    "developer_prompt": "instructions",
    "idempotency_key": "Idempotency-Key",
}
"""Names of the library's arguments, and the fields of the API that they come from."""
_KEPT = re.compile(r"turn_metadata\.gateway\.(?:response\.)?")
"""The prefix of the names of fields that are kept with a turn."""
_HEAD = re.compile(r"^HTTP \d+(?: [^:]*)?: ")
"""The prefix that the library puts before the text of an upstream's error."""


class Refusal(Exception):
    """An error with its HTTP status. `param` is the field of the request that it is about."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        type: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = repair_text(message)  # it may quote text of the request that cannot be sent
        self.param = None if param is None else repair_text(param)
        self.status, self.code, self.type = status, code, type
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The envelope."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def not_found(kind: str, name: str, *, param: str | None = None) -> Refusal:
    """Return the answer for an id that the tenant does not have. It is the same if another tenant has it."""
    return Refusal(f"{kind} with id '{name}' not found.", status=404, code="not_found", param=param)


def unsupported(param: str, problem: str) -> Refusal:
    """Return the answer for a feature that the gateway does not serve."""
    return Refusal(f"{param}: {problem}", code="unsupported_value", param=param)


def to_refusal(error: BaseException, base_url: str | None = None) -> Refusal:
    """Return the answer for an error. Its text names neither the upstream's key nor the upstream's address, `base_url`."""
    match error:
        case Refusal():
            return error
        case errors.ConversationBusy():
            return _refuse(error, 409, "conversation_busy", type="conflict_error", headers=NO_RETRY)
        case errors.HeadMoved():
            return _refuse(error, 409, "conversation_changed", type="conflict_error", headers=NO_RETRY)
        case errors.IdempotencyConflict():
            return idempotency_refusal()
        case errors.NotFound():
            return not_found(error.kind.capitalize(), error.name)
        case errors.ContextOverflow():
            return _refuse(error, 400, "context_length_exceeded", param="messages")
        case errors.TooLarge():
            return _refuse_field(error, 413, "too_large", error.field)
        case errors.InvalidInput():
            return _refuse_field(error, 400, "invalid_value", error.field)
        case errors.SettingsError():
            return _refuse_field(error, 400, "invalid_value", error.setting)
        case errors.ModelError():
            refusal = _refuse_model_error(error)
            refusal.message = _hide_host(refusal.message, base_url)
            return refusal
        case errors.StoreError():
            log.warning("the database failed: %s", error)
            problem = "the store is not available"
            headers = {"retry-after": "1"}
            return Refusal(problem, status=503, code="store_unavailable", type="server_error", headers=headers)
        case errors.Redacted():
            return _refuse(error, 410, "erased")
        case RecursionError():
            return Refusal("the body is nested too deeply", code="invalid_json")
        case errors.ConvokitError():
            return _refuse(error, 500, "server_error", type="server_error", headers=NO_RETRY)
        case _:
            log.error("a request failed by a fault of the gateway: %s", _describe_fault(error))
            return Refusal("internal error", status=500, code="internal", type="server_error", headers=NO_RETRY)


def idempotency_refusal() -> Refusal:
    """Return the answer for an idempotency key that another request had."""
    problem = "the Idempotency-Key was used for another request: use a new key"
    return Refusal(
        problem,
        status=409,
        code="idempotency_key_reuse",
        param="Idempotency-Key",
        type="conflict_error",
        headers=NO_RETRY,
    )


def _refuse(error: Exception, status: int, code: str, **facts: Any) -> Refusal:
    return Refusal(str(error), status=status, code=code, **facts)


def _refuse_field(error: Exception, status: int, code: str, field: str) -> Refusal:
    """Return the answer for a wrong value, under the name that the field has in the API."""
    name = _API_NAMES.get(field) or _KEPT.sub("", field, count=1)
    message = str(error)
    if message.startswith(f"{field}: "):
        message = name + message.removeprefix(field)
    return Refusal(message, status=status, code=code, param=name)


def _refuse_model_error(error: errors.ModelError) -> Refusal:
    """Return the upstream's error with its status. The turn has its own retries, so the client is told to stop."""
    if isinstance(error, errors.Interrupted):
        code = error.code or "interrupted"
        return _refuse(error, 502, code, type="server_error", headers=NO_RETRY)
    fallback = 504 if isinstance(error, errors.TimedOut) else 502
    status = error.status if error.status is not None and 400 <= error.status < 600 else fallback
    if status in (401, 403):  # about the gateway's own key, which the client cannot change
        log.error("the upstream refused the gateway's key with status %s", status)
        problem = "the upstream refused the gateway's own key"
        return Refusal(problem, status=502, code="upstream_auth", type="server_error", headers=NO_RETRY)
    headers = dict(NO_RETRY)
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    message = _HEAD.sub("", str(error)) if error.status is not None else _describe_failure(error)
    return Refusal(message, status=status, code=error.code, param=error.param, type=kind, headers=headers)


def _describe_fault(error: BaseException) -> str:
    """Return the class of an exception and where it was raised. Its message may contain text of a request."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _describe_failure(error: errors.ModelError) -> str:
    """Return a sentence for an error without an answer. The library's own names the server, which clients need not know."""
    log.warning("the upstream failed: %s", type(error).__name__)  # its text may quote the request
    if isinstance(error, errors.TimedOut):
        return f"the upstream did not answer in time ({error.phase})"
    if isinstance(error, errors.Unreachable):
        return "the upstream cannot be reached"
    return "the upstream sent no valid answer"


def _hide_host(message: str, base_url: str | None) -> str:
    """Return an upstream's message without the upstream's own address. Links to other sites stay."""
    host = urlsplit(base_url or "").hostname
    if not host:
        return message
    address = rf"(?:\w+://)?(?<![\w.-]){re.escape(host)}(?![\w-])(?::\d+)?(?:/[^\s\"'<>]*)?"
    return re.sub(address, "[upstream]", message, flags=re.IGNORECASE)
