"""What httpx's errors mean: was anything sent, may it have been processed, did the answer begin?"""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import urlsplit

import httpx

from convokit.errors import Interrupted, ModelError, TimedOut, Unreachable


def fail(error: httpx.HTTPError, *, began: bool, fresh: bool, url: str = "") -> NoReturn:
    """Raise what an httpx error means. `began` says that the answer had, `fresh` that the connection was opened for it."""
    raise _meaning(error, began=began, fresh=fresh, host=urlsplit(url).netloc) from None


def late_head() -> TimedOut:
    """Return the error of an answer whose head did not come in time."""
    return TimedOut("no answer within Timeouts.first_byte_s", phase="first_byte")


def _meaning(error: httpx.HTTPError, *, began: bool, fresh: bool, host: str) -> ModelError:
    said = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"no connection to {host} within Timeouts.connect_s", phase="connect")
    if isinstance(error, httpx.PoolTimeout):
        return TimedOut("no free connection in time", phase="connect")
    if isinstance(error, httpx.TimeoutException):
        if began:
            return TimedOut("nothing came for Timeouts.stall_s", phase="stall")
        return late_head()
    if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.ProxyError):
        return Unreachable(f"cannot connect to {host}: {said}")
    if began:
        return Interrupted(f"the connection broke off in the middle of the answer ({said})")
    if not fresh:
        return Unreachable(f"a kept connection was closed by the server ({said})")
    return Interrupted(f"the connection broke off before the answer began ({said})")
