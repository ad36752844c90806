"""The viewer in a real browser: scrolling, keys, live messages, and hostile texts."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Dialog, Page, Request

from convokit import Convokit
from convokit.testing import ScriptedModel
from tests.browser.conftest import OpenPage
from tests.browser.running_viewer import RunningViewer
from tests.viewer.hostile import PAYLOADS
from tests.viewer.in_process import Story


def append(database: str, story: Story, texts: list[str]) -> None:
    """Append messages to the conversation."""
    with Convokit(database) as kit:
        roles = ("user", "assistant")
        kit.chat(id=story.id).append([{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)])


def wait_until(page: Page, expression: str) -> None:
    """Wait until a JavaScript expression is true. The policy of the page forbids Playwright's own way."""
    end = time.monotonic() + 8
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def is_visible(page: Page, selector: str) -> bool:
    """Return whether an element is inside the window."""
    box: Any = page.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
    height: Any = page.evaluate("innerHeight")
    return bool(0 <= box["top"] < height)


def test_a_permalink_lands_on_its_message(open_page: OpenPage, story: Story, sqlite_file: str) -> None:
    """It is outlined, focused and in the window; the address stays."""
    append(sqlite_file, story, [f"{number}件目\n\n" + "行\n" * 9 for number in range(60)])
    page = open_page(f"/c/{story.id}/m/40#m40")
    target = page.locator(".message[aria-current]")
    assert target.get_attribute("id") == "m40"
    assert is_visible(page, "#m40")
    assert page.evaluate("document.activeElement.id") == "m40"
    assert page.evaluate("getComputedStyle(document.querySelector('#m40')).outlineStyle") == "solid"
    assert page.url.endswith(f"/c/{story.id}/m/40#m40")
    page.goto(page.url.replace("#m40", ""))
    assert is_visible(page, "#m40")


def test_back_keeps_the_place(open_page: OpenPage, story: Story, sqlite_file: str) -> None:
    append(sqlite_file, story, ["行\n" * 20 for _ in range(45)])
    page = open_page(f"/c/{story.id}")
    page.evaluate("window.scrollTo(0, 3000)")
    before = page.evaluate("scrollY")
    # Playwright's own click would scroll to the link.
    page.get_by_role("link", name="Tree", exact=True).evaluate("(link) => link.click()")
    page.wait_for_url("**/tree")
    page.go_back()
    wait_until(page, f"Math.abs(scrollY - {before}) < 60")


def test_a_text_is_copied_as_it_is_stored(open_page: OpenPage, story: Story) -> None:
    page = open_page(f"/c/{story.id}", permissions=["clipboard-read", "clipboard-write"])
    page.locator("#m2 button.copy").click()
    wait_until(page, "document.getElementById('announce').textContent === 'The text of message 2 is copied.'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("**「重要」**です。\n\n| 駅 | 分 |")
    page.locator("#m12 .version a[aria-label='Previous version']").click()
    page.wait_for_url("**/m/11#m11")


def test_keys(open_page: OpenPage, story: Story) -> None:
    """j, k, o, v, g l, ?; nothing in a field, while an input method composes, or when they are off."""
    page = open_page(f"/c/{story.id}")
    for key, expected in (("j", "m1"), ("j", "m2"), ("k", "m1")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == expected
    page.evaluate(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', isComposing: true, bubbles: true}))"
    )
    assert page.evaluate("document.activeElement.id") == "m1"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("jk?")
    assert page.locator("#q").input_value() == "jk?"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.locator("#keys-on").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") != "q"
    page.get_by_role("button", name="Keys").click()
    page.locator("#keys-on").check()
    page.get_by_role("button", name="Close").click()
    page.locator("#m2").focus()
    page.keyboard.press("w")
    page.wait_for_url("**/t/**/1")
    page.keyboard.press("g")
    page.keyboard.press("l")
    page.wait_for_url(lambda url: url.endswith("/"))
    page.goto(f"{page.url}c/{story.id}/m/11")
    page.keyboard.press("v")
    page.wait_for_url("**/versions")


def test_hostile_texts_do_nothing(open_page: OpenPage, viewer: RunningViewer, story: Story, sqlite_file: str) -> None:
    """No dialog, no request to another host, no navigation; also in titles, keys, arguments, and with the source shown."""
    payload = PAYLOADS["image_error"]
    texts = list(PAYLOADS.values())
    append(sqlite_file, story, texts[:18])
    with Convokit(sqlite_file) as kit:
        call = {"id": "c<svg>", "type": "function", "function": {"name": "f", "arguments": payload}}
        kit.chat(id=story.id).append([{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}])
        other = kit.chat(payload, title=f"</title>{payload}", subject=payload)
        other.append([{"role": "user", "content": text} for text in texts[18:]])
        assert other.id is not None
    dialogs: list[str] = []
    foreign: list[str] = []
    page = open_page("/")

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    def hear(request: Request) -> None:
        if not request.url.startswith(viewer.url):
            foreign.append(request.url)

    page.on("dialog", dismiss)
    page.on("request", hear)
    first, second = f"/c/{story.id}", f"/c/{other.id}"
    pages = ("/", first, second, f"{second}?source=yes", f"{first}/log", f"{second}/tree", f"{second}/next")
    for path in (*pages, "/search?q=alert", "/usage?by=conversation"):
        page.goto(viewer.url + path)
        page.wait_for_timeout(100)
        assert page.url == viewer.url + path
        forbidden = "iframe, object, svg script, base, main style, main link, main meta, main form form"
        assert page.locator(forbidden).count() == 0
    page.goto(viewer.url + first)
    assert page.get_by_text("<script>alert(1)</script>", exact=True).count() == 1
    assert dialogs == []
    assert foreign == []


def test_live_messages_do_not_move_the_reader(open_page: OpenPage, story: Story, sqlite_file: str) -> None:
    """At the top the page stays and offers what is new; at the end it follows. The text of an open turn appears."""
    append(sqlite_file, story, ["行\n" * 12 for _ in range(12)])
    page = open_page(f"/c/{story.id}")
    page.wait_for_timeout(300)
    append(sqlite_file, story, ["新しい質問"])
    page.get_by_text("新しい質問").wait_for(timeout=8000)
    assert page.evaluate("scrollY") == 0
    more = page.locator("#more")
    assert more.inner_text() == "1 new"
    more.click()
    wait_until(page, "innerHeight + scrollY >= document.documentElement.scrollHeight - 60")
    append(sqlite_file, story, ["もう一つ"])
    page.get_by_text("もう一つ").wait_for(timeout=8000)
    wait_until(page, "innerHeight + scrollY >= document.documentElement.scrollHeight - 60")
    client = ScriptedModel(["少しずつ書く返事です。" * 3]).client()
    with Convokit(sqlite_file, model="gpt-4o", api_key="x", http_client=client) as kit:
        stream = kit.chat(id=story.id).stream("続き")
        with stream:
            for _ in stream:
                time.sleep(0.12)
                if page.locator("#typing").is_visible():
                    break
            else:
                raise AssertionError("no text appeared while the turn was open")
            for _ in stream:
                pass
    page.get_by_text("少しずつ書く返事です。少しずつ").last.wait_for(timeout=8000)
    wait_until(page, "document.getElementById('typing').hidden")


def test_versions_and_a_check_with_its_progress(open_page: OpenPage, story: Story) -> None:
    page = open_page(f"/c/{story.id}/m/11/versions")
    assert page.locator(".diff del").inner_text() == "東京"
    assert page.locator(".diff ins").inner_text() == "大阪"
    page.get_by_label("Old 12").check()
    page.get_by_label("New 11").check()
    page.get_by_role("button", name="Compare").click()
    assert page.locator(".diff ins").inner_text() == "東京"
    page.get_by_role("link", name="Proof").click()
    page.get_by_role("link", name="Verify now").click()
    page.get_by_text("The chain is whole.").wait_for(timeout=8000)
    assert page.url.endswith("/proof")


def test_a_picture_is_shown_and_other_files_are_saved(open_page: OpenPage, story: Story) -> None:
    page = open_page(f"/c/{story.id}")
    image = page.locator("figure img")
    image.scroll_into_view_if_needed()
    wait_until(page, "document.querySelector('figure img').naturalWidth === 2")
    with page.expect_download() as download:
        page.get_by_role("link", name="図.svg").click()
    assert download.value.suggested_filename.endswith((".bin", ".svg"))


def test_times_of_the_reader(open_page: OpenPage, story: Story) -> None:
    """UTC until the switch; then the zone of the computer on every page, with its name."""
    page = open_page(f"/c/{story.id}")
    first = page.locator("main time").first
    assert first.inner_text().endswith(" UTC")
    page.get_by_role("button", name="Times: UTC").click()
    assert first.inner_text().endswith("+09:00")
    page.get_by_role("link", name="Proof").click()
    assert page.locator("main time").first.inner_text().endswith("+09:00")


def test_without_javascript(open_page: OpenPage, story: Story) -> None:
    """Pages, links, forms and the check work; what needs the script is not shown."""
    page = open_page("/")
    state = page.context.storage_state()
    page = open_page(f"/c/{story.id}", java_script_enabled=False, storage_state=state)
    assert page.locator(".message[data-seq]").count() == 11
    assert not page.get_by_role("button", name="Keys").is_visible()
    page.locator("#q").fill("重要")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="京都 · 2").click()
    assert page.url.endswith(f"/c/{story.id}/m/2#m2")
    page.get_by_role("link", name="Proof").click()
    page.get_by_role("link", name="Verify now").click()
    assert page.get_by_text("The chain is whole.").is_visible()


def test_the_link_is_used_up_and_another_site_gets_nothing(
    browser: Browser, viewer: RunningViewer, story: Story, open_page: OpenPage
) -> None:
    """The token leaves the address; a second browser is refused; a link from another site keeps the session."""
    page = open_page("/")
    assert "token" not in page.url
    other = browser.new_context(locale="ja-JP")
    second = other.new_page()
    second.goto(viewer.link)
    assert second.get_by_text("使用済み").is_visible()
    other.close()
    assert httpx.get(viewer.url, headers={"host": "evil.example"}).status_code == 421
    foreign = viewer.url.replace("127.0.0.1", "localhost")
    page.goto(f"{foreign}/-/health")
    page.evaluate(f"location.href = '{viewer.url}/c/{story.id}'")
    page.get_by_role("heading", name="京都旅行").wait_for(timeout=8000)


@pytest.mark.parametrize("width", [320, 1100])
def test_no_page_scrolls_sideways(open_page: OpenPage, story: Story, sqlite_file: str, width: int) -> None:
    """Only code and tables do, in their own boxes. The printed page has no controls."""
    wide = "|" + "長い見出し|" * 20 + "\n|" + "-|" * 20
    append(sqlite_file, story, ["https://example.com/" + "x" * 300, "```\n" + "y" * 400 + "\n```", wide])
    page = open_page("/", viewport={"width": width, "height": 700})
    base, conversation, turn = page.url.rstrip("/"), f"/c/{story.id}", f"/c/{story.id}/t/{story.last_turn}"
    paths = ["", "/tree", "/log", "/next", "/proof", "/m/11/versions"]
    for path in (
        "/",
        *(conversation + each for each in paths),
        turn,
        f"{turn}/1",
        f"{turn}/1/window",
        "/usage",
        "/search?q=重要",
    ):
        page.goto(base + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    page.goto(base + conversation)
    page.emulate_media(media="print")
    assert not page.locator(".top").is_visible()
    assert page.locator("#m2").is_visible()
