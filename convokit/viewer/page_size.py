"""Cut long texts, and choose the messages that fit on a page.

Pages stay below 200 kB, except for a message of many long parts, and for several long texts that are almost only Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convokit.viewer.markdown import make_visible

MAX_TEXT_BYTES = 16 * 1024
"""Of a text on a page with other texts, in UTF-8. As Markdown, some texts take the square of their length."""
MAX_BODY_BYTES = 64 * 1024
"""Of a text that has a page of its own."""
_MAX_PAGE_BYTES = 80_000
"""Of the texts of all messages on a page. Tags, links and escaped characters come on top of them."""


class CutText(NamedTuple):
    """The beginning of a text, with the lengths of both in UTF-8."""

    text: str
    shown_bytes: int
    total_bytes: int

    @property
    def is_cut(self) -> bool:
        """Whether the end of the text is left out."""
        return self.shown_bytes < self.total_bytes


def cut_text(text: str, limit: int = MAX_TEXT_BYTES) -> CutText:
    """Return a text, or the beginning of a longer one: up to the end of a line where there is one."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return CutText(text, len(data), len(data))
    cut = data[:limit].decode("utf-8", "ignore")
    line_end = cut.rfind("\n")
    cut = cut[:line_end] if line_end > limit // 4 else cut
    return CutText(cut, len(cut.encode()), len(data))


def measure(text: str) -> int:
    """Return the bytes that a text takes on a page with other texts, without Markdown. A mark takes more than its character."""
    return len(make_visible(cut_text(text).text).encode())


def shorten(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """Return a text, or the beginning of a longer one with the bytes of the whole."""
    cut = cut_text(text, limit)
    return f"{cut.text}\n… ({cut.total_bytes:,} B)" if cut.is_cut else text


def find_page(sizes: Sequence[int], index: int) -> tuple[int, int]:
    """Return the first and the end index of a page with the message at `index`, and with as many on both sides of it as fit.

    `sizes` are the bytes that each message takes.
    """
    first, end = index, index + 1
    free = _MAX_PAGE_BYTES - sizes[index]
    goes_back, goes_on = True, True
    while goes_back or goes_on:
        goes_back = goes_back and first > 0 and sizes[first - 1] <= free
        if goes_back:
            first -= 1
            free -= sizes[first]
        goes_on = goes_on and end < len(sizes) and sizes[end] <= free
        if goes_on:
            free -= sizes[end]
            end += 1
    return first, end
