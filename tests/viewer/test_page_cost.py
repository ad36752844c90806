"""What the pages cost, on both databases."""

from __future__ import annotations

import re
from urllib.parse import quote

from convokit.viewer.routes import _PAGES
from tests.support.statements import count_statements
from tests.viewer.in_process import AsgiViewer, Story

_READS = ("SELECT", "WITH", "PRAGMA", "SHOW")


def list_paths(story: Story) -> dict[str, str]:
    """Return a path for each page, by its route."""
    conversation = f"/c/{story.id}"
    values = {"turn": story.last_turn, "call": 1, "seq": 5, "branch": 1}
    paths = {
        route: re.sub(r"\{(\w+):\w+\}", lambda match: str(values.get(match[1], story.id)), route)
        for route, *_ in _PAGES
    }
    diff = "/c/{id:uuid}/diff"
    paths[diff] = f"{conversation}/diff?a={story.first_turn}&b={story.last_turn}"
    paths["/search"] = f"/search?q={quote('重要')}"
    return paths


def test_each_page_is_small_and_reads_little(viewer: AsgiViewer, story: Story) -> None:
    """HTML in both languages and JSON: only reads, at most six statements, and under 200 kB."""
    for route, path in list_paths(story).items():
        viewer.get(path)  # the schema is checked once
        for language in ("en", "ja"):
            with count_statements() as statements:
                response = viewer.get(path, headers={"accept-language": language})
            assert response.status_code == 200, f"{route}: {response.text}"
            assert response.headers["content-type"] == "text/html; charset=utf-8", route
            assert len(response.content) < 200_000, route
            assert f'<html lang="{language}">' in response.text, route
            assert [each for each in statements if not each.lstrip().upper().startswith(_READS)] == [], route
            assert len(statements) <= 6 or route.endswith("/verify"), f"{route}: {statements}"
        name, _, query = path.partition("?")
        answer = viewer.get(f"{name}.json?{query}")
        assert answer.headers["content-type"] == "application/json", route
        assert isinstance(answer.json(), dict), route
        assert "\\u" not in answer.text, route
