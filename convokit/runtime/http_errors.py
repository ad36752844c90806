"""Translate errors of httpx into errors of convokit.

Each says whether the request was sent, whether the server may have processed it, and whether the answer had started.
"""

from __future__ import annotations

import ssl
from typing import NoReturn
from urllib.parse import urlsplit

import httpx

from convokit.errors import ConvokitError, Interrupted, ModelError, SettingsError, TimedOut, Unreachable
from convokit.runtime.http_environment import list_http_variables

_HTTP_LIBRARIES = ("httpx", "httpcore", "h11", "h2", "anyio", "socksio")


def raise_model_error(error: Exception, *, body_started: bool, fresh: bool, own: bool, url: str = "") -> NoReturn:
    """Raise the error of convokit for an error of httpx or of a library below it.

    An exception that hooks or the transport of a user's own client raise is raised as it is.

    Args:
        error: The exception.
        body_started: Whether the head of the answer was there already.
        fresh: Whether the connection was opened for this request.
        own: Whether the httpx client was made by convokit.
        url: The URL of the request.
    """
    if isinstance(error, TimeoutError):
        raise _make_timeout(body_started=body_started) from None
    if isinstance(error, httpx.HTTPError):
        raise _to_model_error(error, body_started=body_started, fresh=fresh, url=url, own=own) from None
    raise _to_setting_error(error, url, own=own) or error from None


def _make_timeout(*, body_started: bool) -> TimedOut:
    if body_started:
        return TimedOut("no data for Timeouts.stall_s", phase="stall")
    return TimedOut("no answer within Timeouts.first_byte_s", phase="first_byte")


def _to_model_error(error: httpx.HTTPError, *, body_started: bool, fresh: bool, url: str, own: bool) -> ModelError:
    detail = str(error) or type(error).__name__
    host = urlsplit(url).netloc
    if isinstance(error, httpx.ConnectTimeout):
        return TimedOut(
            f"no connection to {host} within Timeouts.connect_s{_name_variables(url, own)}", phase="connect"
        )
    if isinstance(error, httpx.PoolTimeout):
        return TimedOut("no free connection within Timeouts.first_byte_s", phase="connect")
    if isinstance(error, httpx.TimeoutException):
        return _make_timeout(body_started=body_started)
    if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.ProxyError):
        return Unreachable(f"cannot connect to {host}: {detail}{_name_variables(url, own)}")
    if body_started:
        return Interrupted(f"the connection broke off in the middle of the answer ({detail})")
    if not fresh:
        return Unreachable(f"the server had closed a kept connection ({detail})")
    return Interrupted(f"the connection broke off before the answer began ({detail})")


def _name_variables(url: str, own: bool) -> str:
    names = list_http_variables(url) if own else []
    return f" (set in the environment: {', '.join(names)})" if names else ""


def _to_setting_error(error: Exception, url: str, *, own: bool) -> ConvokitError | None:
    """Return the error for a URL or a client that cannot be used; None for an exception of the user's own code."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.InvalidURL | UnicodeError):
        return SettingsError("base_url", f"{url.partition('?')[0]!r} has a host that does not exist ({reason})")
    if isinstance(error, RuntimeError):  # the client was closed, or belongs to another event loop or to the other API
        return SettingsError("http_client", f"the httpx client cannot be used: {reason}")
    is_of_library = type(error).__module__.partition(".")[0] in _HTTP_LIBRARIES
    if own or is_of_library or isinstance(error, ssl.SSLError):
        return Unreachable(f"cannot send the request to {urlsplit(url).netloc} ({reason}){_name_variables(url, own)}")
    return None
