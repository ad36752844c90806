"""The pictures of the docs: they show what the pages show now. `--write-pictures` makes them anew."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Browser

from convokit import Budget, Convokit
from convokit.testing import ScriptedCall, ScriptedModel
from tests.browser.running_viewer import RunningViewer, running_viewer

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_TEXTS = IMAGES / "view.json"
_CHANGING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{8,}\b|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC|\d+\.\d+ s")
"""Ids, digests, times and durations."""
_BUDGET = Budget(context_tokens=320, reply_tokens=60, step_tokens=40)
"""So small that the window leaves messages out."""
_STORIES: dict[str, dict[str, Any]] = {
    "en": {
        "prompt": "You help travellers. Be brief.",
        "key": "travel-42",
        "title": "Two days in Kyoto",
        "subject": "hanako",
        "city": "Kyoto",
        "questions": ["Two days in Kyoto: what should I see?", "And the weather?", "Which temple first?"],
        "replies": [
            "**Day 1**: the east.\n\n| place | from the station |\n|---|--:|\n| Kiyomizu-dera | 15 min |\n| Gion | 20 min |"
            "\n\n**Day 2**: Arashiyama, early in the morning.",
            "Sunny in Kyoto. Take a hat.",
            "Kiyomizu-dera: it opens at six.",
            "Fushimi Inari: it never closes.",
        ],
    },
    "ja": {
        "prompt": "旅行者を助ける。短く答える。",
        "key": "旅行-42",
        "title": "京都の二日間",
        "subject": "花子",
        "city": "京都",
        "questions": ["京都に二日間。何を見るべき？", "天気は？", "最初はどのお寺？"],
        "replies": [
            "**「一日目」**は東側です。\n\n| 場所 | 駅から |\n|---|--:|\n| 清水寺 | 15 分 |\n| 祇園 | 20 分 |"
            "\n\n**「二日目」**は嵐山へ。朝早くがおすすめです。",
            "京都は晴れです。帽子をどうぞ。",
            "清水寺です。六時に開きます。",
            "伏見稲荷です。いつでも入れます。",
        ],
    },
}


@dataclass(frozen=True, slots=True)
class Told:
    """The story in one language, and its viewer."""

    id: UUID
    turn: UUID
    viewer: RunningViewer


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"{city}: 24 °C"


@pytest.fixture(params=["en", "ja"])
def told(request: pytest.FixtureRequest, sqlite_file: str) -> Iterator[tuple[str, Told]]:
    """A conversation in one language."""
    texts = _STORIES[request.param]
    first, second, *others = texts["replies"]
    model = ScriptedModel([first, ScriptedCall("weather", {"city": texts["city"]}), second, *others])
    with Convokit(
        sqlite_file,
        model="gpt-4o",
        api_key="x",
        http_client=model.client(),
        developer_prompt=texts["prompt"],
        budget=_BUDGET,
    ) as kit:
        chat = kit.chat(texts["key"], title=texts["title"], subject=texts["subject"])
        for question in texts["questions"]:
            chat.send(question, tools=[weather])
        turn = chat.regenerate(tools=[weather]).turn_id
    assert chat.id is not None
    with running_viewer(sqlite_file, budget=_BUDGET) as viewer:
        yield request.param, Told(chat.id, turn, viewer)


def test_pictures_are_current(told: tuple[str, Told], browser: Browser, pytestconfig: pytest.Config) -> None:
    """The visible text of each page is the one in its picture, but for ids and times."""
    language, story = told
    conversation, call = f"/c/{story.id}", f"/c/{story.id}/t/{story.turn}/1"
    paths = {
        "conversation": conversation,
        "request": call,
        "window": f"{call}/window",
        "versions": f"{conversation}/m/9/versions",
    }
    context = browser.new_context(
        locale="ja-JP" if language == "ja" else "en-US",
        color_scheme="dark" if language == "ja" else "light",
        viewport={"width": 1000, "height": 720},
    )
    page = context.new_page()
    page.goto(story.viewer.link)
    known: dict[str, str] = json.loads(_TEXTS.read_text("utf-8")) if _TEXTS.exists() else {}
    found = {}
    for name, path in paths.items():
        page.goto(story.viewer.url + path)
        page.wait_for_timeout(150)
        text = _CHANGING.sub("", page.locator("body").inner_text())
        found[f"{name}.{language}"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        if pytestconfig.getoption("--write-pictures"):
            page.screenshot(path=IMAGES / f"view-{name}.{language}.png")
    context.close()
    if pytestconfig.getoption("--write-pictures"):
        _TEXTS.write_text(json.dumps({**known, **found}, indent=2, sort_keys=True) + "\n", "utf-8")
        return
    old = [name for name, digest in found.items() if known.get(name) != digest]
    assert not old, (
        f"run `pytest tests/browser --browser --write-pictures -k pictures`: {', '.join(old)} show older pages"
    )
