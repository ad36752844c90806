"""Markdown of messages: safe HTML, nothing lost, and no text that takes long."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.viewer import markdown
from convokit.viewer.markdown import Rendered, describe_link, make_visible, render_markdown, render_plain
from tests.support.selection import examples
from tests.viewer.hostile import PAYLOADS
from tests.viewer.in_process import Parsed

BLOB = "/c/1/blob/"
_ALLOWED = {
    "a": {"href", "rel"},
    "img": {"src", "alt", "loading"},
    "ol": {"start"},
    "span": {"class", "title"},
    "div": {"class", "tabindex", "role", "aria-label"},
    "pre": {"tabindex"},
    "th": {"class"},
    "td": {"class"},
}


def render(text: str) -> Rendered:
    def find_blob(digest: str) -> str | None:
        return BLOB + digest if re.fullmatch("[0-9a-f]{64}", digest) else None

    return render_markdown(text, find_blob=find_blob, table_label="表")


def html(text: str) -> str:
    return str(render(text).html).strip()


def check_safe(rendered: Rendered) -> Parsed:
    """Check that HTML has nothing beyond the allow-list, and loads nothing but binaries of the conversation."""
    parsed = Parsed(str(rendered.html))
    for tag, attributes in parsed.elements:
        assert tag in markdown._TAGS
        assert attributes.keys() <= _ALLOWED.get(tag, set())
        if tag == "a":
            assert urlsplit(attributes["href"] or "").scheme in ("http", "https", "mailto")
            assert attributes["rel"] == "noopener noreferrer nofollow"
        if tag == "img":
            assert (attributes["src"] or "").startswith(BLOB)
    return parsed


def list_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]", text)


@pytest.mark.parametrize("name", PAYLOADS)
def test_hostile_texts_are_shown_and_do_nothing(name: str) -> None:
    """Every letter is visible, or the target of a link that is written out by its host."""
    text = PAYLOADS[name]
    parsed = check_safe(render(text))
    shown = parsed.text + "".join(str(value) for _, given in parsed.elements for value in given.values())
    if name not in ("japanese", "blob", "data_image"):  # addresses are encoded, and of data there is the size
        assert len(list_words(shown)) >= len(list_words(text))
    assert not re.search(
        r"<\s*(script|iframe|style|form|meta|base|svg|link|object)", str(render(text).html), re.IGNORECASE
    )


@given(st.text(alphabet=st.sampled_from("ab1「」。*_`[]()!<>#-|\n ~\\&:/日本\t.\u202e\u200b"), max_size=200))
@examples(cost=2)
def test_any_text_is_safe_and_complete(text: str) -> None:
    parsed = check_safe(render(text))
    shown = parsed.text + "".join(str(value) for _, given in parsed.elements for value in given.values())
    markers = sum(len(each) for each in re.findall(r"(?m)^[ >*+-]*(\d+)[.)]", text))
    assert len(list_words(shown)) + 9 * markers >= len(list_words(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**「重要」**です", "<p><strong>「重要」</strong>です</p>"),
        ("**注意：**次に", "<p><strong>注意：</strong>次に</p>"),
        ("これは**「強調」**。", "<p>これは<strong>「強調」</strong>。</p>"),
        ("**テスト（test）**です", "<p><strong>テスト（test）</strong>です</p>"),
        ("~~「旧」~~は", "<p><s>「旧」</s>は</p>"),
        ("*한국어*는", "<p><em>한국어</em>는</p>"),
        ("foo*bar*baz", "<p>foo<em>bar</em>baz</p>"),
        ("foo_bar_baz", "<p>foo_bar_baz</p>"),
        ("a * b * c", "<p>a * b * c</p>"),
        ('a*"foo"*', '<p>a*"foo"*</p>'),
        ("**foo, (*bar*), baz**", "<p><strong>foo, (<em>bar</em>), baz</strong></p>"),
        ("_(bar)_.", "<p><em>(bar)</em>.</p>"),
        ("** is not **", "<p>** is not **</p>"),
        ("*(*foo*)*", "<p><em>(<em>foo</em>)</em></p>"),
    ],
)
def test_emphasis(text: str, expected: str) -> None:
    """Beside Japanese punctuation too; Latin text as CommonMark has it."""
    assert html(text) == expected


def test_blocks() -> None:
    """Headings below those of the page, lines as written, code with its language, tables that scroll, costs in dollars."""
    assert html("# 一\n## 二\n##### 三") == "<h3>一</h3>\n<h4>二</h4>\n<h6>三</h6>"
    assert html("一行\n二行\n\n三行") == "<p>一行<br>\n二行</p>\n<p>三行</p>"
    assert html("*一*\n二") == "<p><em>一</em><br>\n二</p>"
    assert (
        html("```python\nx < 1\n```")
        == '<div class="code-language">python</div><pre tabindex="0"><code>x &lt; 1\n</code></pre>'
    )
    assert html("It costs $5 and $6_a_") == "<p>It costs $5 and $6_a_</p>"
    table = html("| a | b |\n|---|--:|\n| 1 | 2 |")
    assert table.startswith('<div class="table" tabindex="0" role="region" aria-label="表"><table>')
    assert '<td class="number">2</td>' in table
    assert html("3. c\n4. d") == '<ol start="3">\n<li>c</li>\n<li>d</li>\n</ol>'


def test_links_and_images() -> None:
    """The host of a link stands beside it unless its text has it; images only of this conversation."""
    rel = 'rel="noopener noreferrer nofollow"'
    assert html("[x](https://a.example/b)") == (
        f'<p><a href="https://a.example/b" {rel}>x</a> <span class="host">(a.example)</span></p>'
    )
    assert html("<https://a.example/b>") == f'<p><a href="https://a.example/b" {rel}>https://a.example/b</a></p>'
    assert '<span class="host">(evil.example)</span>' in html("[bank](https://bank.example@evil.example/)")
    assert "“T”" in html('![x](https://a.example/b "T")')
    digest = "a" * 64
    assert html(f"![絵](blob:{digest})") == f'<p><img src="{BLOB}{digest}" alt="絵" loading="lazy"></p>'
    assert "<img" not in html("![x](blob:short)")
    assert html("![x](data:image/png;base64,AAAA)") == "<p>x (image/png, 26)</p>"
    assert str(describe_link("javascript:alert(1)")) == "javascript:alert(1)"
    assert "<a " in describe_link("https://a.example/x")


def test_characters_that_nobody_sees_are_marked() -> None:
    """Controls, reading directions and zero width; joiners of emoji and Japanese stay."""
    assert "⟨U+202E⟩" in make_visible("a\u202eb")
    assert make_visible("👩‍👩‍👧 が ﾊﾟ ゔ 🏳️‍🌈") == "👩‍👩‍👧 が ﾊﾟ ゔ 🏳️‍🌈"
    for text in ("a\u200bb", "`a\u200bb`", "**a\u200bb**", "```\na\u200bb\n```", "[a\u200bb](https://a.example)"):
        assert "U+200B" in html(text)
    assert str(render_plain("<b>\r\n")) == "&lt;b&gt;\n"


@pytest.mark.parametrize(
    "text",
    [
        "> " * 40 + "deep",
        "| a |\n|---|\n| 1 | hidden |",
        "- " * 30 + "deep",
        "![" * 300,
        "|a" * 3_000,
        "*a" * 4_001,
    ],
)
def test_a_text_that_would_lose_a_part_or_take_long_is_plain(text: str) -> None:
    assert render(text).is_plain
    assert html(text) == str(render_plain(text)).strip()


def test_a_fault_of_the_parser_shows_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "_clean", lambda *given: 1 / 0)
    assert render("**a**").is_plain


def test_references_and_entities_are_what_was_written() -> None:
    """A definition would be invisible, and an entity would be another character."""
    assert html("[//]: # (secret)") == "<p>[//]: # (secret)</p>"
    assert html("&copy; *a*") == "<p>&amp;copy; <em>a</em></p>"
