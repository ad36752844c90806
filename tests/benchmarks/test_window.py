"""The benchmark of the window measures what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convokit.completion.effects import OpenRequest
from tests.benchmarks import window
from tests.benchmarks.corpora import Exchange, make_conversation
from tests.benchmarks.counting_model import CountingModel, Played, play, report_absurdly, report_nothing
from tests.support.token_counts import count_request, count_text

pytestmark = pytest.mark.once


def _ask(model: CountingModel, *contents: str) -> tuple[int, Any]:
    roles = ("system", *("user", "assistant") * len(contents))
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    data = json.dumps({"model": "m", "messages": messages}).encode()
    answer = model.open(OpenRequest("http://127.0.0.1:1/v1", {}, data, 1.0, 1.0))
    return answer.status, json.loads(answer.read(1.0))


def test_requests_are_counted_and_compared_with_the_one_before() -> None:
    model = CountingModel(400, {"m": "o200k_base"})
    status, answer = _ask(model, "規則", "one")
    first = 3 + (3 + 1 + count_text("規則")) + (3 + 1 + 1)
    assert (status, answer["usage"]["prompt_tokens"]) == (200, first)
    _ask(model, "規則", "one", "yes", "two")
    _ask(model, "規則", "two", "yes", "three")
    played = model.played
    assert played.prompts == [first, first + 10, first + 10]
    assert played.repeated == [0, first, first - 5]
    assert played.added[1:] == [10, 10]
    assert played.moves == [2]
    assert played.available == 300


def test_too_long_requests_are_refused_as_openai_words_it() -> None:
    model = CountingModel(20, {"m": "o200k_base"})
    status, answer = _ask(model, "rules", "word " * 30)
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 20 tokens" in answer["error"]["message"]
    assert (model.played.refused, model.played.prompts) == (1, [])


def test_shares_are_of_requests_after_the_first_move() -> None:
    played = Played(100)
    for prompt, repeated, moved in ((50, 0, False), (90, 50, False), (60, 10, True), (80, 60, False), (101, 80, False)):
        played.note(prompt, repeated, 20, moved=moved)
    assert played.fill == pytest.approx((60 + 80 + 101) / 300)
    assert played.shared == pytest.approx((10 + 60 + 80) / (60 + 80 + 101))
    assert (played.before, played.growth, played.over) == (0.9, 0.2, 1)


@pytest.mark.parametrize(
    ("fill", "shared", "refused", "verdict"),
    [(76, 70, 0, "ok"), (74, 70, 0, "BAD"), (76, 60, 0, "BAD"), (76, 70, 1, "BAD"), (101, 90, 0, "BAD")],
)
def test_bounds_are_those_of_the_design(fill: int, shared: int, refused: int, verdict: str) -> None:
    played = Played(100, refused=refused)
    for prompt, repeated, moved in ((95, 0, False), (fill, shared, True)):
        played.note(prompt, repeated, 4, moved=moved)
    assert window.judge(played, window.find_bounds("English", 8_000, played.growth)) == verdict


def test_a_line_of_the_table_has_a_cell_for_each_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong requests are those of all counters."""
    found = iter([(80, 0), (70, 0), (80, 2)])

    def play_shortly(*_: Any, **__: Any) -> Played:
        fill, refused = next(found)
        played = Played(100, refused=refused)
        for prompt, repeated, moved in ((95, 0, False), (fill, fill, True)):
            played.note(prompt, repeated, 4, moved=moved)
        return played

    monkeypatch.setattr(window, "play", play_shortly)
    (line,) = window.measure_corpus(2, "o200k_base", (8_000, "English"))
    cells = [f"{fill} / 0.95 / 1.00 {verdict}" for fill, verdict in (("0.80", "ok"), ("0.70", "BAD"), ("0.80", "BAD"))]
    assert line == ["8,000", "English", "4.0%", *cells, "0 / 2 / 0"]


@pytest.mark.parametrize("corpus", window.CORPORA)
def test_conversations_grow_as_they_should(corpus: str) -> None:
    """A request adds about the wanted tokens, and the same arguments make the same conversation."""
    conversation = make_conversation(corpus, 40, 120)
    assert conversation == make_conversation(corpus, 40, 120)
    assert len({exchange.reply for exchange in conversation}) == 40
    messages: list[dict[str, Any]] = []
    for exchange in conversation:
        messages.append({"role": "user", "content": exchange.question})
        messages += [{"role": "tool", "content": exchange.rows}] if exchange.rows else []
        messages.append({"role": "assistant", "content": exchange.reply})
    requests = 80 if corpus == "tools" else 40
    assert 90 <= count_request({"messages": messages}) / requests <= 150


def test_servers_report_what_they_are_told_to() -> None:
    """Without usage nothing is reported; absurd reports are among true ones."""
    assert report_nothing(1000, 3) is None
    assert {report_absurdly(1000, number) for number in range(22)} == {10, 1000, 3000}


def test_tool_traffic_takes_two_requests_in_a_turn() -> None:
    played = play([Exchange("What is open?", "Two invoices.", '{"invoice": 1}')], 4_000)
    assert len(played.prompts) == 2
    assert played.failed == 0
