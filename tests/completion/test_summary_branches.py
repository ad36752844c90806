"""Where a summary belongs: on the paths that hold what it stands for, at no place of the tree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convokit import Budget
from convokit.errors import ContextOverflow, InvalidInput
from tests.completion.summaries import (
    HEADING,
    Writer,
    fetched,
    models,
    sent_to,
    summary_parts,
    talk_until,
    write,
)
from tests.support.faces import Face
from tests.support.server import LoopbackServer

# The rules of this module depend on neither database nor API.
pytestmark = pytest.mark.once


def test_branches_use_what_covers_their_own_past(
    face: Face, summed: Any, server: LoopbackServer, database: str, writer: Writer
) -> None:
    """A branch that forks below what a summary stands for is sent with it; one that forks from before is not. What one branch
    sums up does not change the other's prompt while its start stays."""
    budget = Budget(context_tokens=400, reply_tokens=50, step_tokens=90)
    chat = summed.chat("k", budget=budget)
    number = talk_until(face, server, chat)
    (stands,) = fetched(database, "SELECT from_seq, to_seq FROM convokit_summary")
    head = face.settle(chat.messages(limit=1))[0].seq
    conversation = fetched(database, "SELECT id FROM convokit_conversation")[0].id
    for branch, at in ((1, head), (2, stands.to_seq - 2)):
        write(
            database,
            "INSERT INTO convokit_branch (conversation_id, number, head_seq, created_at)"
            f" VALUES ('{conversation}', {branch}, {at}, 1)",
        )
    below, above = summed.chat("k", budget=budget), summed.chat("k")
    below._ref.branch, above._ref.branch = 1, 2
    assert face.settle(below.context("so?")).messages[1]["content"] == HEADING + "so far 1"
    shown = face.settle(above.context("so?", budget=Budget(context_tokens=100, reply_tokens=50, step_tokens=20)))
    assert shown.report.start > 1
    assert "so far" not in json.dumps(shown.messages)
    before = sent_to(server)
    talk_until(face, server, below, until=2, first=number)
    assert sent_to(server)[1] == HEADING + "so far 2"
    face.settle(chat.send("ok"))
    assert sent_to(server)[: len(before)] == before, "the other branch's summary reaches into this one's window"
    while sent_to(server)[1] == HEADING + "so far 1":
        shown = face.settle(chat.context("ok"))
        assert all(key is not None for key, _, _ in summary_parts(shown.report)), "there is one already"
        face.settle(chat.send("ok"))
    assert sent_to(server)[1] == HEADING + "so far 2"
    assert writer.made == 2, "one that stands for all that falls out is there already"
    face.settle(chat.verify())


def test_a_redacted_summary_is_not_used(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """A summary whose text is gone is as if it had never been."""
    chat = summed.chat("k")
    talk_until(face, server, chat, until=2)
    write(
        database,
        "UPDATE convokit_message SET status = 'redacted', content = NULL, salt = NULL WHERE seq ="
        " (SELECT max(message_seq) FROM convokit_summary)",
    )
    assert face.settle(chat.context("so?")).messages[1]["content"] == HEADING + "so far 1"


def test_a_summary_gives_way_to_pins_and_the_turn(face: Face, summed: Any, server: LoopbackServer) -> None:
    """Where the current turn leaves no room for it, it stays out, and the report says so; pinned messages come before it."""
    chat = summed.chat("k")
    talk_until(face, server, chat)
    face.settle(chat.pin(1))
    reply = face.settle(chat.send("short"))
    pin, summary = sent_to(server)[1:3]
    assert pin == "turn number 0 and more"
    assert summary.startswith(HEADING + "so far ")
    assert summary_parts(reply.context)[0][1] is True
    kinds = set()
    for words in range(100, 200):
        text = "many words " * words
        try:
            shown = face.settle(chat.context(text))
        except ContextOverflow:
            break
        if shown.report.rule == "only this turn, which may be too long":
            break
        contents = [each["content"] for each in shown.messages][1:]
        (rolled,) = [rule for key, _, rule in summary_parts(shown.report) if key is not None]
        kinds.add(
            tuple(
                each.split("\n")[0].strip() for each in contents[:-1] if each.startswith(("turn number 0", HEADING[:9]))
            )
        )
        assert contents[-1] == text
        assert rolled.endswith(", but does not fit") == (summary not in contents)
        assert shown.report.tokens <= shown.report.available + shown.report.fixed_tokens
    heading = HEADING.strip()
    assert kinds == {(pin, heading), (pin,), ()}, "the summary goes before the pin"


def test_a_summary_cannot_be_pinned(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """It is sent by itself."""
    chat = summed.chat("k")
    talk_until(face, server, chat)
    (row,) = fetched(database, "SELECT message_seq FROM convokit_summary")
    with pytest.raises(InvalidInput, match="summary"):
        face.settle(chat.pin(row.message_seq))


def test_a_summary_is_no_place_in_the_tree(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """It is no leaf, nobody's sibling, and no message to fork from, check out or edit; another reply is made as ever."""
    chat = summed.chat("k")
    talk_until(face, server, chat)
    (row,) = fetched(database, "SELECT to_seq, message_seq FROM convokit_summary")
    for change in (chat.fork, chat.checkout, lambda seq: chat.edit(seq, "other")):
        with pytest.raises(InvalidInput, match="summary"):
            face.settle(change(row.message_seq))
    last = face.settle(chat.messages(limit=1))[0].seq
    assert [each.seq for each in face.settle(chat.leaves())] == [last]
    assert [each.seq for each in face.settle(chat.siblings(row.to_seq + 1))] == [row.to_seq + 1]
    first = len(server.requests)
    face.settle(chat.regenerate())
    assert len(face.settle(chat.siblings(last))) == 2
    assert models(server, first) == ["m"]
    assert sent_to(server)[1] == HEADING + "so far 1"
    face.settle(chat.verify())


def test_an_emptied_summary_is_no_place_either(face: Face, summed: Any, server: LoopbackServer, database: str) -> None:
    """Redacted by itself, or with a message that it stands for, it is no leaf and nobody's sibling, and cannot be forked from;
    the next turn goes on without it."""
    chat = summed.chat("k")
    talk_until(face, server, chat, until=2)
    first, second = fetched(database, "SELECT to_seq, message_seq FROM convokit_summary ORDER BY number")
    for redacted in (second.message_seq, 1):
        face.settle(chat.redact(redacted))
        last = face.settle(chat.messages(limit=1))[0].seq
        assert [each.seq for each in face.settle(chat.leaves())] == [last]
        for each in (first, second):
            assert [found.seq for found in face.settle(chat.siblings(each.to_seq + 1))] == [each.to_seq + 1]
    assert fetched(database, "SELECT number FROM convokit_summary") == []
    for each in (first, second):
        with pytest.raises(InvalidInput, match="summary and is erased"):
            face.settle(chat.fork(each.message_seq))
    face.settle(chat.send("go on"))
    assert "so far" not in json.dumps(server.requests[-1].body["messages"])
    face.settle(chat.verify())
