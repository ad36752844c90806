"""Test `search`."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from rich.cells import cell_len

from convokit import Convokit
from convokit.cli.commands.search import _draw_snippet
from convokit.search.query import Hit
from tests.cli.conftest import CommandLine
from tests.completion.summaries import BUDGET, SUMMARY, Writer, talk_until
from tests.support.faces import Face
from tests.support.server import LoopbackServer


@pytest.fixture
def filled(cli: CommandLine, server: LoopbackServer) -> CommandLine:
    with Convokit(cli.database, model="loop-1", base_url=server.url) as kit:
        kit.chat("旅行", subject="hanako").send("東京都の天気を教えて")
        kit.chat("ports").send("Why is port 80 already taken?")
    return cli


def test_search_prints_a_head_and_a_snippet_for_each_hit(filled: CommandLine) -> None:
    shown = filled("search", "天気", "東京").stdout.splitlines()
    assert shown[0].startswith("旅行  user  20")
    assert shown[1] == "  東京都の天気を教えて"
    assert filled("search", "天気", "port").stderr == "no message found\n"
    assert filled("search", "天気", "--role", "assistant").stdout.startswith("旅行  assistant")
    assert "80" in filled("search", '"port 80"', "--key", "ports").stdout
    assert filled("search", "port", "--subject", "hanako").stdout == ""
    tomorrow = (datetime.now() + timedelta(days=1)).strftime("%Y-%m-%d")
    assert filled("search", "port", "--since", tomorrow).stdout == ""
    assert filled("search", "port", "--since", "2020-01-01 10:00", "--until", tomorrow).stdout


def test_search_json_holds_marks_and_the_next_cursor(filled: CommandLine) -> None:
    first = filled.json("search", "port", "--limit", "1")
    hit = first["hits"][0]
    assert (hit["key"], hit["seq"], hit["role"]) == ("ports", 1, "user")
    assert [hit["snippet"][start:end] for start, end in hit["marks"]] == ["port"]
    second = filled.json("search", "port", "--limit", "1", "--before", first["next"])
    assert [each["seq"] for each in second["hits"]] == [2]
    assert second["next"] is None
    assert "--before" in filled("search", "port", "--limit", "1").stderr


def test_search_prints_found_conversations_first(filled: CommandLine) -> None:
    """By the beginning of the key and by the title, before the messages; also in JSON."""
    filled("rename", "旅行", "東京 の 旅\x1b[31m")
    filled("archive", "旅行")
    shown = filled("search", "東京").stdout.splitlines()
    assert shown[0].startswith("旅行  東京 の 旅␛[31m  conversation  20")
    assert shown[0].endswith("archived")
    assert shown[1].startswith("旅行  user")
    result = filled("search", "port", "--until", "2020-01-01")
    assert (result.stdout, result.stderr) == ("", "no message found\n")
    found = filled.json("search", "port")
    assert [each["key"] for each in found["conversations"]] == ["ports"]
    assert filled("search", "por").stdout.startswith("ports  conversation  20")
    assert "no message found" in filled("search", "por").stderr


def test_search_mistakes_are_one_line(filled: CommandLine) -> None:
    assert "contains no word" in filled.mistake("search", "***")
    assert "role" in filled.mistake("search", "port", "--role", "boss")
    assert "nobody" in filled.mistake("search", "port", "--key", "nobody")
    for arguments in (["search"], ["search", "port", "--rebuild"]):
        assert "--rebuild" in filled(*arguments, code=2).stderr


def test_rebuild_indexes_missing_messages_once(cli: CommandLine, server: LoopbackServer) -> None:
    with Convokit(cli.database, model="loop-1", base_url=server.url, search=False) as kit:
        kit.chat("k").send("言葉")
    assert cli("search", "言葉").stdout == ""
    assert cli("search", "--rebuild").stderr.startswith("indexed 2 texts")
    assert cli("search", "言葉").stdout
    assert cli.json("search", "--rebuild") == {"indexed": 0}


@pytest.mark.parametrize("cells", [20, 31, 60])
def test_snippet_fits_and_shows_the_first_word(filled: CommandLine, cells: int) -> None:
    """A Japanese character takes two cells."""
    with Convokit(filled.database, model="m") as kit:
        hit = kit.search("天気").items[0]
    for before, after in (("", "後" * 60), ("前" * 60, "後" * 60), ("a" * 59, "")):
        snippet = f"{before}天気{after}"
        made = hit.model_copy(update={"snippet": snippet, "marks": [(len(before), len(before) + 2)]})
        line = _draw_snippet(made, cells)
        assert line.cell_len == cell_len(line.plain) <= cells
        assert "天気" in line.plain
    steering = Hit(**{**dict(hit), "snippet": "\x1b[31m天気", "marks": [(5, 7)]})
    assert "\x1b" not in _draw_snippet(steering, cells).plain


def test_search_marks_summaries(cli: CommandLine, server: LoopbackServer) -> None:
    face = Face("sync")
    server.answer = Writer()
    kit = face.kit(cli.database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY)
    talk_until(face, server, kit.chat("k"))
    face.close()
    assert cli("search", "so far").stderr == "no message found\n"
    shown = cli("search", "so far", "--summaries").stdout.splitlines()
    assert shown[0].startswith("k  summary  20")
    assert [hit["is_summary"] for hit in cli.json("search", "so far", "--summaries")["hits"]] == [True]
    assert [hit["is_summary"] for hit in cli.json("search", "turn", "--limit", "1")["hits"]] == [False]
