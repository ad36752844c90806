"""Test summaries that are longer than asked, and messages that no summary covers."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from convokit import Budget, HistoryGap, Summary
from convokit.context.summary import cut_at_sentence
from tests.completion.summaries import BUDGET, HEADING, ONCE, Writer, next_moves, sent_to, summary_parts, talk_until
from tests.support.faces import Face
from tests.support.server import LoopbackServer, completion, failure

pytestmark = pytest.mark.once
LONG = "東京支店の契約を更新しました。担当は田中さんです。" * 80
"""2,000 characters, about 1,500 tokens."""


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("東京です。晴れです。", 20, "東京です。晴れです。"),
        ("東京です。晴れです。", 9, "東京です。"),
        ("「行く。」と言った。次。", 11, "「行く。」と言った。"),
        ('One. "Two." Three', 14, 'One. "Two."'),
        ("v1.2 is out. It works", 20, "v1.2 is out."),
        ("- one\n- two\n- three", 12, "- one\n- two"),
        ("no end here", 8, "no e […]"),
        ("文の終わりがない", 7, "文の終 […]"),
        ("abc", 2, ""),
    ],
)
def test_a_text_is_cut_at_the_end_of_a_sentence(text: str, limit: int, expected: str) -> None:
    assert cut_at_sentence(text, lambda start: len(start) <= limit) == expected


def test_a_summary_longer_than_asked_is_cut(face: Face, database: str, server: LoopbackServer, writer: Writer) -> None:
    """The history goes on being sent: the summary has its own place and no more."""
    budget = Budget(context_tokens=4096, reply_tokens=300)
    kit = face.kit(
        database, model="m", base_url=server.url, budget=budget, summary=Summary(model="mini", max_tokens=300)
    )
    chat = kit.chat("k")
    writer.scripted += [completion(LONG, model="mini")] * 40
    sent = []
    reply: Any = None
    for number in range(70):
        reply = face.settle(chat.send(f"契約番号{number}の状況を教えてください。" * 4))
        sent.append(len(sent_to(server)))
    report = reply.context
    assert [included for key, included, _ in summary_parts(report) if key is not None] == [True]
    (summary,) = (text for text in sent_to(server) if text.startswith(HEADING))
    assert summary.endswith("。")
    assert 0.15 < len(summary) / len(LONG) < 0.8
    assert report.fill >= 55
    assert min(sent[30:]) > 20, "history is sent after each move"
    face.settle(chat.verify())


def test_an_old_summary_that_is_too_long_stays_out(
    face: Face, database: str, server: LoopbackServer, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was made for a larger window takes at most half of this one, else it stays out. Report and log say so."""
    roomy = Budget(context_tokens=3000, reply_tokens=100, step_tokens=300)
    given: dict[str, Any] = {"model": "m", "base_url": server.url, "retry": ONCE}
    kit = face.kit(database, budget=roomy, summary=Summary(model="mini", max_tokens=1600), **given)
    writer.scripted.append(completion(LONG, model="mini"))
    for number in range(20):
        face.settle(kit.chat("k").send(f"turn number {number} " + "and more words " * 40))
    assert writer.scripted == []
    tight = face.kit(
        database,
        budget=Budget(context_tokens=500, reply_tokens=50, step_tokens=60),
        summary=Summary(model="mini", max_tokens=40),
        **given,
    )
    chat = tight.chat("k")
    writer.scripted += [failure(500)] * 9
    with caplog.at_level(logging.WARNING, "convokit"):
        reply = face.settle(chat.send("短い質問"))
    assert len(sent_to(server)) >= 3, "history is sent"
    rules = [rule for _, included, rule in summary_parts(reply.context) if not included]
    assert any(rule.endswith("but does not fit") for rule in rules)
    assert any("are in neither the window nor a summary" in rule for rule in rules)
    assert any("are in neither the window nor a summary" in record.message for record in caplog.records)


def test_a_stream_warns_of_messages_that_no_summary_covers(
    face: Face, database: str, server: LoopbackServer, writer: Writer
) -> None:
    """The event comes after the start and before the reply's text, in each turn until a summary covers them."""
    summary = Summary(model="mini", max_tokens=40, budget=Budget(context_tokens=3000))
    kit = face.kit(database, model="m", base_url=server.url, budget=BUDGET, summary=summary, retry=ONCE)
    chat = kit.chat("k")
    number = next_moves(face, chat)
    writer.scripted.append(failure(500))
    events = face.collect(chat.stream(f"turn number {number} and more"))
    start = face.settle(chat.context()).report.start
    assert [event.type for event in events][:2] == ["started", "history_gap"]
    assert events[1] == HistoryGap(1, start - 1)
    again = face.collect(chat.stream("so?"))
    assert [event.type for event in again][:2] == ["started", "history_gap"]
    talk_until(face, server, chat, until=2)
    assert "history_gap" not in [event.type for event in face.collect(chat.stream("and now?"))]


def test_a_first_summary_of_a_part_says_what_it_left(
    face: Face, database: str, server: LoopbackServer, writer: Writer
) -> None:
    """A summary holds as much as one call takes. The messages before that are a gap too."""
    given: dict[str, Any] = {"model": "m", "base_url": server.url}
    roomy = face.kit(database, budget=Budget(context_tokens=3000, reply_tokens=50), **given).chat("k")
    for number in range(40):
        face.settle(roomy.send(f"turn number {number} and more"))
    tight = Budget(context_tokens=400, reply_tokens=50, step_tokens=60)
    kit = face.kit(database, budget=tight, summary=Summary(model="mini", max_tokens=40, budget=tight), **given)
    reply = face.settle(kit.chat("k").send("so?"))
    (gap,) = (rule for key, _, rule in summary_parts(reply.context) if key is None)
    assert gap.startswith("messages 1 to ")
