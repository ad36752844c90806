"""Translate errors of httpx into errors of convokit.

Each says whether the request was sent, whether the server may have processed it, and whether the answer had started.
"""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import urlsplit

import httpx

from convokit.errors import Interrupted, ModelError, TimedOut, Unreachable


def raise_model_error(error: httpx.HTTPError, *, body_started: bool, fresh: bool, url: str = "") -> NoReturn:
    """Raise the ModelError for an error of httpx.

    `body_started` means that the head of the answer was there already, `fresh` that the connection was opened for this request.
    """
    raise _to_model_error(error, body_started=body_started, fresh=fresh, host=urlsplit(url).netloc) from None


def head_timeout_error() -> TimedOut:
    """Return the error for an answer whose head did not come in time."""
    return TimedOut("no answer within Timeouts.first_byte_s", phase="first_byte")


def _to_model_error(error: httpx.HTTPError, *, body_started: bool, fresh: bool, host: str) -> ModelError:
    detail = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"no connection to {host} within Timeouts.connect_s", phase="connect")
    if isinstance(error, httpx.PoolTimeout):
        return TimedOut("no free connection within Timeouts.first_byte_s", phase="connect")
    if isinstance(error, httpx.TimeoutException):
        if body_started:
            return TimedOut("no data for Timeouts.stall_s", phase="stall")
        return head_timeout_error()
    if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.ProxyError):
        return Unreachable(f"cannot connect to {host}: {detail}")
    if body_started:
        return Interrupted(f"the connection broke off in the middle of the answer ({detail})")
    if not fresh:
        return Unreachable(f"the server had closed a kept connection ({detail})")
    return Interrupted(f"the connection broke off before the answer began ({detail})")
