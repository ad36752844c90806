"""Define pages of listings, and callbacks for progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, overload

from pydantic import BaseModel, ConfigDict

from convokit.errors import InvalidInput

Value = TypeVar("Value")
MAX_PAGE = 1000
Progress = Callable[[int, int | None], None]
"""Called with the amount that is done and the total (None: unknown), from the thread that does the work.

The method that takes the callback says what it counts: conversations, messages, or bytes of a file.
"""


class Page(BaseModel, Generic[Value]):
    """One page of a listing. It is used like a list of its items; an empty page is false."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    items: list[Value]
    next: str | None = None
    """The cursor of the next page: pass it as `before`. None on the last page."""

    def __iter__(self) -> Iterator[Value]:  # type: ignore[override]  # pydantic iterates over fields
        """Iterate over the items."""
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Value: ...
    @overload
    def __getitem__(self, index: slice) -> list[Value]: ...
    def __getitem__(self, index: int | slice) -> Value | list[Value]:
        """Return the item at a position, or the items of a slice."""
        return self.items[index]

    def __contains__(self, item: object) -> bool:
        return item in self.items


def validate_limit(limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
        raise InvalidInput("limit", f"must be a whole number from 1 to {MAX_PAGE:,}, not {limit!r}")
