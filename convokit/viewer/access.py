"""Define who may look at which conversations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at the pages, as `auth` found out."""

    tenant: str = "default"
    """The owner of the conversations that the viewer sees."""
    name: str = ""
    """A name to show at the top of each page. It is not checked."""


Authenticate = Callable[[Request], Awaitable[Viewer | None]]
"""Returns the viewer of a request, or None, which is answered with 401."""
