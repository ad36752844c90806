"""Render the Markdown of messages to safe HTML.

Messages are untrusted. Markdown is parsed without HTML, which is escaped and stays readable. The result passes an allow-list.
The headers of each response are a third layer (`guard.py`). Nothing remote is loaded, and a remote image becomes a link.

Nothing that was written disappears. A text of which Markdown would hide a part is shown without Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

from convokit.domain.text import UNSAFE_TEXT
from convokit.viewer.cjk_emphasis import CjkInlineParser

_MAX_BRACKETS = 200
_MAX_CELLS = 2_000
_MAX_MARKS = 4_000
"""Of one character that opens something: more of them are no text that a person reads as Markdown."""
_MAX_NESTING = 20
_SYNTAX = re.compile(r"[\\`*_\[<&~|]|^ {0,3}(?:[#>+=-]|\d{1,9}[.)])|^(?: {4}|\t)| \n", re.MULTILINE)
"""What may be Markdown. A text without it consists of paragraphs."""
_WORD = re.compile(r"[^\W_]")
_PARAGRAPHS = re.compile(r"\n(?:[ \t]*\n)+")
_SCHEMES = ("http:", "https:", "mailto:")
_BLOB = "blob:"
_TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "img", "span", "div"),
    *("h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {
    "a": {"href"},
    "img": {"src", "alt", "loading"},
    "ol": {"start"},
    "span": {"class", "title"},
    "div": {"class", "tabindex", "role", "aria-label"},
    "pre": {"tabindex"},
    "th": {"class"},
    "td": {"class"},
}
_REL = "noopener noreferrer nofollow"
FindBlob = Callable[[str], str | None]
"""Returns the path of a binary of the conversation by its digest, or None."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered message."""

    html: Markup
    is_plain: bool
    """Whether the text is shown without Markdown, because it might take too long."""


def make_visible(text: object) -> Markup:
    """Return text as HTML, with characters that nobody sees as marks: controls, reading directions, zero width."""
    escaped = escapeHtml(str(text).replace("\r\n", "\n"))
    return Markup(UNSAFE_TEXT.sub(_mark, escaped))  # noqa: S704  # escaped above


def _mark(match: re.Match[str]) -> str:
    code = f"U+{ord(match.group()):04X}"
    return f'<span class="mark" title="{code}">⟨{code}⟩</span>'


def render_plain(text: str) -> Markup:
    """Return a text without Markdown. Its line breaks are kept by the style of the page."""
    return make_visible(text)


def describe_link(url: str) -> Markup:
    """Return a link to a remote address with its host written out; text for an address that is no link."""
    if not is_link(url):
        return make_visible(url)
    return Markup('<a href="{}" rel="{}">{}</a>').format(url, _REL, make_visible(url))


def is_link(url: str) -> bool:
    """Return whether an address may be a link: with a known scheme, and a host where it needs one."""
    if not url.lower().startswith(_SCHEMES):
        return False
    try:
        return bool(urlsplit(url).hostname) or url.lower().startswith("mailto:")
    except ValueError:
        return False


def render_markdown(text: str, *, find_blob: FindBlob, table_label: str) -> Rendered:
    """Render a message.

    Args:
        text: Markdown of anyone, at most 16 KiB: some texts take the square of their length.
        find_blob: Returns the path of a binary of this conversation. Only such images are shown.
        table_label: The name of a table for screen readers.
    """
    if not _SYNTAX.search(text):
        return Rendered(_render_paragraphs(text), False)
    if _is_expensive(text):
        return Rendered(render_plain(text), True)
    images: set[str] = set()
    env = {"find_blob": find_blob, "table_label": table_label, "images": images}
    parser = _make_parser()
    try:
        tokens = parser.parse(text, env)
        if not _is_complete(text, tokens):
            return Rendered(render_plain(text), True)
        html = _clean(parser.renderer.render(tokens, parser.options, env), images)
    except Exception:  # a message must not make its page unreadable, whatever the libraries think of it
        return Rendered(render_plain(text), True)
    return Rendered(html, False)


def _render_paragraphs(text: str) -> Markup:
    parts = (part.strip("\n") for part in _PARAGRAPHS.split(text.strip("\n")))
    return Markup("").join(
        Markup("<p>{}</p>\n").format(make_visible(part).replace("\n", Markup("<br>\n"))) for part in parts if part
    )


def _is_expensive(text: str) -> bool:
    if text.count("[") > _MAX_BRACKETS or text.count("|") > _MAX_CELLS:
        return True
    return any(text.count(mark) > _MAX_MARKS for mark in ("*", "_", "`", "<", ">", "&", "~", "\\"))


def _is_complete(text: str, tokens: Sequence[Token]) -> bool:
    """Return whether the tokens have all letters and digits of a text.

    Markdown drops what is nested too deeply, and the cells of a table row behind those of its head.
    """
    found = sum(_count_characters(token) for token in tokens)
    return found >= len(_WORD.findall(text))


def _count_characters(token: Token) -> int:
    if token.type == "inline":
        return sum(_count_characters(child) for child in token.children or ())
    texts = [token.content, token.info]
    if token.markup != "autolink":  # its text is its address
        texts += [str(token.attrs.get(name, "")) for name in ("href", "src", "title")]
    return sum(len(_WORD.findall(text)) for text in texts)


def _clean(html: str, images: set[str]) -> Markup:
    def filter_attribute(tag: str, attribute: str, value: str) -> str | None:
        return None if (tag, attribute) == ("img", "src") and value not in images else value

    cleaned = nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=filter_attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel=_REL,
    )
    return Markup(cleaned)  # noqa: S704  # cleaned by the allow-list


@cache
def _make_parser() -> MarkdownIt:
    parser = MarkdownIt(renderer_cls=_Renderer)
    parser.inline = CjkInlineParser()
    # Chat messages have line breaks where their writers want them.
    parser.configure("commonmark", {"html": False, "breaks": True, "maxNesting": _MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    # A definition of a reference is invisible, and an entity is not what was written.
    parser.disable(["reference", "entity"])
    parser.validateLink = _may_be_target  # type: ignore[method-assign]
    parser.core.ruler.push("shift_headings", _shift_headings)
    return parser


def _may_be_target(url: str) -> bool:
    """Return whether a link or an image is parsed as one. Any other stays the text that was written."""
    return is_link(url) or url.startswith((_BLOB, "data:"))


def _shift_headings(state: Any) -> None:
    """Move headings below those of the page: messages have h2."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"


class _Renderer(RendererHTML):
    """Writes tokens that browsers must not take as they are."""

    def text(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return make_visible(tokens[idx].content)

    def code_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        return f"<code>{make_visible(tokens[idx].content)}</code>"

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return f'<pre tabindex="0"><code>{make_visible(tokens[idx].content)}</code></pre>\n'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        token = tokens[idx]
        language = make_visible(token.info.strip())
        label = f'<div class="code-language">{language}</div>' if language else ""
        return f'{label}<pre tabindex="0"><code>{make_visible(token.content)}</code></pre>\n'

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        token = tokens[idx]
        url = str(token.attrs.get("src", ""))
        alt = self.renderInlineAsText(token.children, options, env) if token.children else ""
        path = env["find_blob"](url.removeprefix(_BLOB)) if url.startswith(_BLOB) else None
        if path is not None:
            env["images"].add(path)
            return f'<img src="{escapeHtml(path)}" alt="{escapeHtml(alt)}" loading="lazy">'
        if url.startswith("data:"):
            kind = url[5:].partition(",")[0].partition(";")[0]
            return f"{make_visible(alt)} ({make_visible(kind or 'data')}, {len(url):,})"
        if not is_link(url):
            return f"![{make_visible(alt)}]({make_visible(url)})"
        link = f'<a href="{escapeHtml(url)}">{make_visible(alt or url)}</a>'
        return f"{link}{_write_title(token)}{_write_host(url)}"

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        url = str(tokens[idx].attrs.get("href", ""))
        return f'<a href="{escapeHtml(url)}">' if is_link(url) else ""

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        start = _find_opening(tokens, idx)
        url = str(tokens[start].attrs.get("href", ""))
        if not is_link(url):
            return f" ({make_visible(url)})"
        note = _write_title(tokens[start])
        text = "".join(token.content for token in tokens[start + 1 : idx])
        return f"</a>{note}{'' if _find_host(url) in text.lower() else _write_host(url)}"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return f'<div class="table" tabindex="0" role="region" aria-label="{escapeHtml(env["table_label"])}"><table>\n'

    def table_close(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return _open_cell("th", tokens[idx])

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return _open_cell("td", tokens[idx])


def _open_cell(tag: str, token: Token) -> str:
    """Return a cell. The parser aligns it by a style, which the policy of the page refuses."""
    return f'<{tag} class="number">' if "right" in str(token.attrs.get("style", "")) else f"<{tag}>"


def _find_opening(tokens: Sequence[Token], index: int) -> int:
    level = tokens[index].level
    return next(at for at in range(index, -1, -1) if tokens[at].type == "link_open" and tokens[at].level == level)


def _write_title(token: Token) -> str:
    title = token.attrs.get("title")
    return f" “{make_visible(title)}”" if title else ""


def _find_host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


def _write_host(url: str) -> str:
    host = _find_host(url)
    return f' <span class="host">({make_visible(host)})</span>' if host else ""
