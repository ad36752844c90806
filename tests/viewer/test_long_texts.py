"""Conversations whose texts are all as long as they may be, on pages that stay small."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from convokit import Budget, Convokit, NewMessage
from convokit.testing import ScriptedCall, ScriptedModel
from convokit.viewer.page_size import MAX_TEXT_BYTES, cut_text, find_page, measure, shorten
from tests.viewer.in_process import AsgiViewer, Parsed

pytestmark = pytest.mark.once
LONG = "長い話の続きです。\n" * 3_000
"""84 kB."""
LONGER = LONG * 3
"""A page with all of it is too large."""


def look_up(subject: str) -> str:
    return LONG


look_up.__doc__ = f"Look up a subject. {LONGER}"


@pytest.fixture
def conversation(viewer: AsgiViewer, database: str) -> UUID:
    """20 messages of 25 kB, and a turn with long arguments, parameters, metadata and replies."""
    long_call: Any = ScriptedCall("look_up", {"subject": LONGER})
    model = ScriptedModel([long_call, LONG, LONG + "別の終わり", LONG.replace("話", "物語")])
    budget = Budget(context_tokens=1_000_000, reply_tokens=1_000)
    with Convokit(database, model="gpt-4o", api_key="x", http_client=model.client(), budget=budget) as kit:
        chat, roles = kit.chat("long", developer_prompt=LONGER), ("user", "assistant")
        chat.append([NewMessage(roles[number % 2], LONG[:9_000]) for number in range(20)])
        chat.send(LONG, tools=[look_up], turn_metadata={"note": LONG[:20_000]})
        chat.regenerate(tools=[look_up])
        # 21 is the question, 22 to 24 are the first reply, 25 and 26 its other versions.
        chat.regenerate(tools=[look_up])
        assert chat.id is not None
        return chat.id


def test_each_page_is_small(viewer: AsgiViewer, conversation: UUID) -> None:
    path = f"/c/{conversation}"
    turns = [each["turn_id"] for each in viewer.get(f"{path}/log.json").json()["messages"] if each["turn_id"]]
    call = f"{path}/t/{turns[0]}/1"
    pages = [
        *(path, f"{path}?before=15", f"{path}?after=3", f"{path}?source=yes", f"{path}/m/10", f"{path}/log"),
        *(f"{path}/m/24", f"{path}/m/26/versions", f"{path}/m/26/versions?a=25&b=26", f"{path}/tree", f"{path}/next"),
        *(f"{path}/t/{turns[0]}", f"{call}", f"{path}/t/{turns[0]}/2", f"{call}/window"),
        *(f"{call}?view=json", f"{call}?view=bytes"),
        *(f"{path}/diff?a={turns[0]}&b={turns[-1]}", f"{path}/proof", "/", "/search?q=長い話"),
    ]
    sizes = {page: len(viewer.get(page).content) for page in pages}
    assert {page: size for page, size in sizes.items() if size >= 200_000} == {}


def test_long_messages_are_spread_over_pages(viewer: AsgiViewer, conversation: UUID) -> None:
    """Going back or on shows each message once. A permalink has its message. JSON has all of them."""
    first = f"/c/{conversation}"
    for start, rel in ((first, "prev"), (f"{first}?after=1", "next")):
        seen: list[int] = []
        path: str | None = start
        while path is not None:
            page = Parsed(viewer.get(path).text)
            seen += _list_seqs(page)
            path = next((str(each["href"]) for each in page.find("a") if each.get("rel") == rel), None)
        assert sorted(seen) == [*range(1 if rel == "prev" else 2, 22), 26]
    assert 10 in _list_seqs(Parsed(viewer.get(f"{first}/m/10").text))
    assert len(viewer.get(f"{first}.json").json()["history"]["messages"]) == 22


def _list_seqs(page: Parsed) -> list[int]:
    return [int(str(each["data-seq"])) for each in page.find("article")]


def test_a_text_is_cut_at_a_line() -> None:
    cut = cut_text("一行目です。\n" * 2_000)
    assert cut.is_cut
    assert cut.shown_bytes <= MAX_TEXT_BYTES < cut.total_bytes == 2_000 * len("一行目です。\n".encode())
    assert cut.text.endswith("一行目です。")
    assert cut_text("短い") == ("短い", 6, 6)
    assert len(cut_text("字" * 10_000).text) == MAX_TEXT_BYTES // 3
    assert shorten("字" * 10, 8) == "字字\n… (30 B)"


def test_marks_take_more_than_the_characters_that_they_stand_for() -> None:
    assert measure("字" * 10) == 30
    assert measure("\u200b" * 1_000) > 10_000
    assert measure("字" * 100_000) <= MAX_TEXT_BYTES


@pytest.mark.parametrize(("index", "expected"), [(0, (0, 5)), (9, (5, 10)), (4, (2, 7)), (1, (0, 5)), (8, (5, 10))])
def test_a_page_has_what_fits_around_a_message(index: int, expected: tuple[int, int]) -> None:
    assert find_page([16_000] * 10, index) == expected


def test_a_page_has_a_message_of_any_length() -> None:
    assert find_page([10, 900_000, 10], 1) == (1, 2)
    assert find_page([10, 10, 900_000], 0) == (0, 2)


def test_only_the_beginnings_of_long_versions_are_compared(viewer: AsgiViewer, conversation: UUID) -> None:
    """JSON compares all of them."""
    path = f"/c/{conversation}/m/26/versions"
    assert "At most the first 65,536 bytes of each text are compared here." in viewer.get(path).text
    changes = viewer.get(f"{path}.json").json()["changes"]
    assert "".join(each["text"] for each in changes if each["kind"] != "removed") == LONG.replace("話", "物語")
