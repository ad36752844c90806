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

        if self._spent_s > _PAGE_BUDGET_S:
            return Markup('<div class="plain" dir="auto">{}</div><p class="note">{}</p>').format(
                render_plain(text), language("not_rendered")
            )
        key = str(conversation_id), language.code + self._links.root, text
        rendered = self._kept.find(key)
        if rendered is None:
            start = time.perf_counter()
            rendered = render_markdown(text, find_blob=find_blob, table_label=str(language("table")))
            self._spent_s += time.perf_counter() - start
            self._kept.keep(key, rendered)
        kind = Markup("plain") if rendered.is_plain else Markup("markdown")
        html = Markup('<div class="{}" dir="auto">{}</div>').format(kind, rendered.html)
        if rendered.is_cut:
            note = language("cut_text", shown=rendered.shown_bytes, total=rendered.total_bytes)
            html += Markup('<p class="note">{}</p>').format(note)
        return html

    def render_source(self, text: str) -> Markup:
        """Return a text as it is stored."""
        return Markup('<div class="plain" dir="auto">{}</div>').format(render_plain(text))

    def link(self, url: str) -> Markup:
        """Return a link to a remote file, with its host written out."""
        return describe_link(url)
