"""Write the text of messages, within a time for each page."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from uuid import UUID

from markupsafe import Markup

from convokit.viewer.language import Language
from convokit.viewer.markdown import Rendered, describe_link, render_markdown, render_plain
from convokit.viewer.page_request import Links
from convokit.viewer.page_size import CutText, cut_text

_PAGE_BUDGET_S = 0.5
_MAX_KEPT = 256
_DIGEST_CHARS = 64


class RenderedTexts:
    """The texts that were rendered last, for all pages of an application. The key contains the conversation and the text."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], Rendered] = OrderedDict()
        self._lock = threading.Lock()  # each page is rendered by a thread

    def find(self, key: tuple[str, str, str]) -> Rendered | None:
        """Return a rendered text, or None."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def keep(self, key: tuple[str, str, str], rendered: Rendered) -> None:
        """Keep a rendered text, and drop the one that was not used for the longest time."""
        with self._lock:
            self._kept[key] = rendered
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)


class PageTexts:
    """Writes the texts of one page. When the page has used its time, texts are written without Markdown."""

    def __init__(self, kept: RenderedTexts, links: Links) -> None:
        self._kept = kept
        self._links = links
        self._spent_s = 0.0

    def render(self, text: str, conversation_id: UUID, language: Language) -> Markup:
        """Return a text with its Markdown as HTML, and a note if it is not complete."""

        def find_blob(digest: str) -> str | None:
            is_digest = len(digest) == _DIGEST_CHARS and digest.isalnum() and digest.isascii()
            return self._links(f"/c/{conversation_id}/blob/{digest}") if is_digest else None

        cut = cut_text(text)
        if self._spent_s > _PAGE_BUDGET_S:
            note = Markup('<p class="note">{}</p>').format(language("not_rendered"))
            return _write_text("plain", render_plain(cut.text)) + note + _note_cut(cut, language)
        key = str(conversation_id), language.code + self._links.root, cut.text
        rendered = self._kept.find(key)
        if rendered is None:
            start = time.perf_counter()
            rendered = render_markdown(cut.text, find_blob=find_blob, table_label=str(language("table")))
            self._spent_s += time.perf_counter() - start
            self._kept.keep(key, rendered)
        return _write_text("plain" if rendered.is_plain else "markdown", rendered.html) + _note_cut(cut, language)

    def render_source(self, text: str, language: Language) -> Markup:
        """Return a text as it is stored, and a note if it is not complete."""
        cut = cut_text(text)
        return _write_text("plain", render_plain(cut.text)) + _note_cut(cut, language)

    def link(self, url: str) -> Markup:
        """Return a link to a remote file, with its host written out."""
        return describe_link(url)


def _write_text(kind: str, html: Markup) -> Markup:
    return Markup('<div class="{}" dir="auto">{}</div>').format(kind, html)


def _note_cut(cut: CutText, language: Language) -> Markup:
    if not cut.is_cut:
        return Markup("")
    note = language("cut_text", shown=cut.shown_bytes, total=cut.total_bytes)
    return Markup('<p class="note">{}</p>').format(note)
