"""axe finds nothing on any page, in both languages and both colour schemes."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.running_viewer import load_axe
from tests.viewer.in_process import Story


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_axe_finds_nothing(open_page: OpenPage, story: Story, locale: str, scheme: str) -> None:
    axe = load_axe()
    page = open_page("/", locale=locale, color_scheme=scheme)
    base, turn = page.url.rstrip("/"), f"/c/{story.id}/t/{story.last_turn}"
    conversation = f"/c/{story.id}"
    for path in (
        "/",
        conversation,
        f"{conversation}/m/8",
        f"{conversation}/log",
        f"{conversation}/tree",
        f"{conversation}/m/11/versions",
        turn,
        f"{turn}/1",
        f"{turn}/1?view=json",
        f"{turn}/1/window",
        f"{conversation}/next",
        f"{conversation}/diff?a={story.tool_turn}&b={story.last_turn}",
        f"{conversation}/verify",
        f"{conversation}/removals",
        "/usage?by=model",
        "/search?q=重要",
        "/nothing",
    ):
        page.goto(base + path)
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        shown = [(each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in found]
        assert shown == [], path
