"""The size of a page, and the function that is told of progress."""

from __future__ import annotations

from collections.abc import Callable

from convokit.errors import InvalidInput

MAX_PAGE = 1000
Progress = Callable[[int, int | None], None]
"""Called with how much is done and how much there is: messages of an export, bytes (or characters) of an import's file.
From the thread that does the work, which in the asynchronous face need not be the caller's."""


def validate_limit(limit: int) -> None:
    """Raise: InvalidInput unless `limit` is a page's size."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
        raise InvalidInput("limit", f"must be a whole number from 1 to {MAX_PAGE:,}, not {limit!r}")
