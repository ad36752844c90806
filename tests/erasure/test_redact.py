"""Redact one message: what is removed with it, what stays, and what still works."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from convokit import Convokit
from convokit.context.validity import find_problems
from convokit.errors import ConvokitError, InvalidInput, Redacted
from convokit.store.schema import completion, entry, message, removal, turn
from tests.support import canaries
from tests.support.canaries import change, everywhere, in_rows
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, calls, chunk, failure

pytestmark = pytest.mark.once

OF_MESSAGE: dict[int, list[str | bytes]] = {
    1: [canaries.PASSAGE],
    2: [canaries.QUESTION],
    3: [canaries.ARGUMENT],
    4: [canaries.RESULT],
    5: [canaries.REPLY, canaries.REASONING],
    6: [canaries.FILENAME, canaries.BINARY[:40]],
    9: [canaries.PARTIAL],
    10: [canaries.ERROR],
    12: [canaries.REFUSAL],
    14: [canaries.SUMMARY],
}
"""What is gone with each message that `canaries.fill` writes."""


def _all(database: str, table: Any) -> list[Any]:
    found: list[Any] = change(database, lambda connection: connection.execute(select(table)).all())
    return found


@pytest.mark.once
@pytest.mark.parametrize("seq", list(OF_MESSAGE))
def test_redact_removes_the_message_from_everywhere(
    face: Face, kit: Any, server: LoopbackServer, database: str, seq: int
) -> None:
    """Its text, binaries, partial chunks and the errors that quote it, and nothing else."""
    chat = canaries.fill(face, kit, server, database, stray=False)
    receipt = face.settle(chat.redact(seq, reason="asked for"))
    assert {str(canary): everywhere(database, canary) for canary in OF_MESSAGE[seq]} == {
        str(canary): [] for canary in OF_MESSAGE[seq]
    }
    gone = [seq, 14] if 2 <= seq <= 5 else [seq]  # the summary goes with what it sums up
    assert receipt.removed["message"] == len(gone)
    assert (receipt.remaining, receipt.chain) == (0, "whole")
    assert receipt.bytes == ("server" if database.startswith("postgresql") else "gone")
    stay = [canary for other, some in OF_MESSAGE.items() if other not in (*gone, 10) for canary in some[:1]]
    assert [canary for canary in [*stay, canaries.TITLE, canaries.PROMPT] if not in_rows(database, canary)] == []
    tombstones = [row.seq for row in _all(database, message) if row.status == "redacted"]
    assert tombstones == gone


@pytest.mark.once
def test_redacted_row_keeps_its_structure(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """Seq, turn, role, token counts and time stay, so that paths and windows do. The salt is deleted."""
    chat = canaries.fill(face, kit, server, database, stray=False)
    before = {row.seq: row for row in _all(database, message)}
    for seq in before:
        face.settle(chat.redact(seq))
    kept = ("seq", "parent_seq", "run_start_seq", "turn_id", "role", "tool_call_id", "path_tokens", "created_at")
    for row in _all(database, message):
        assert [getattr(row, name) for name in kept] == [getattr(before[row.seq], name) for name in kept]
        assert row.status == "redacted"
        lost = ("content", "parts", "tool_calls", "name", "refusal", "extra", "salt")
        assert [getattr(row, name) for name in lost] == [None] * len(lost)
        kept_out = before[row.seq].status in ("passage", "summary")  # no path counted them
        assert row.tokens == (0 if kept_out else before[row.seq].tokens)
    face.settle(chat.verify())


def test_each_removal_row_has_a_chain_entry(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """The message and each API call with details get one removal and one entry of its number."""
    chat = canaries.fill(face, kit, server, database, stray=False)
    face.settle(chat.redact(10, reason="asked for", author="desk"))
    rows, turn_id = _all(database, removal), next(row.turn_id for row in _all(database, message) if row.seq == 10)
    assert [row.ref for row in rows] == ["message:10", f"completion:{turn_id}:1"]
    links = {row.number: row for row in _all(database, entry)}
    assert [(links[row.number].kind, links[row.number].ref) for row in rows] == [("redaction", row.ref) for row in rows]
    assert {(row.reason, row.author) for row in rows} == {("asked for", "desk")}


def test_redact_deletes_the_salts_of_requests_with_the_message(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """Also the salt of its question's fingerprint. Other requests keep theirs."""
    chat = kit.chat("k")
    for number in range(4):
        face.settle(chat.send(f"pin {number}", idempotency_key=str(number)))
    receipt = face.settle(chat.redact(5))
    order = {row.id: row.question_seq for row in _all(database, turn)}
    salted = {order[row.turn_id]: row.body_salt is not None for row in _all(database, completion)}
    assert salted == {1: True, 3: True, 5: False, 7: False}
    fingerprints = {row.question_seq: row.fingerprint_salt is not None for row in _all(database, turn)}
    assert fingerprints == {1: True, 3: True, 5: False, 7: True}
    assert receipt.removed["salt"] == 3


def test_redact_of_a_result_clears_the_fingerprint_of_the_turn_that_it_started(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """A result from the caller is part of the request under the key. The result of a function is not."""

    def look() -> str:
        """Look."""
        return canaries.RESULT

    schema = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
    chat = kit.chat("k", tools=[look, schema])
    server.script(calls(("c1", "look", "{}")), calls(("c2", "pay", "{}")))
    face.settle(chat.send("go", idempotency_key="question"))
    server.script(calls(("c3", "look", "{}")))
    face.settle(chat.send(tool_results={"c2": canaries.PIECE}, idempotency_key="results"))
    roles = [message.role for message in face.settle(chat.messages())]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant", "tool", "assistant"]
    for seq, salted in ((3, [True, True]), (7, [True, True]), (5, [True, False])):
        receipt = face.settle(chat.redact(seq))
        assert (receipt.remaining, receipt.chain) == (0, "whole")
        rows = sorted(_all(database, turn), key=lambda row: row.started_at)
        assert [row.fingerprint_salt is not None for row in rows] == salted
    face.settle(chat.redact(8))  # the reply quotes the result of the function
    assert everywhere(database, canaries.PIECE) == []


def test_redact_clears_the_errors_of_later_calls(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """A server may quote text in an error of any call that sent it."""
    chat = kit.chat("k")
    face.settle(chat.send(canaries.PIECE))
    face.settle(chat.redact(2))  # the echo
    server.script(failure(422, f"I cannot read messages[0]: {canaries.PIECE}"))
    with pytest.raises(ConvokitError):
        face.settle(chat.send("and?"))
    face.settle(chat.send("well?"))
    assert in_rows(database, canaries.PIECE) == [
        "convokit_completion.error",
        "convokit_message.content",
        "convokit_turn.error",
    ]
    receipt = face.settle(chat.redact(1))
    assert everywhere(database, canaries.PIECE) == []
    assert (receipt.remaining, receipt.chain, receipt.removed["completion"]) == (0, "whole", 1)


def test_redact_can_be_repeated(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """A repeat writes no entry. A dry run counts what redact removes and writes nothing."""
    chat = canaries.fill(face, kit, server, database, stray=False)
    tried = face.settle(chat.redact(3, dry_run=True))
    assert _all(database, removal) == []
    done = face.settle(chat.redact(face.settle(chat.messages())[1]))
    assert done.removed == tried.removed
    again = face.settle(chat.redact(3))
    assert (again.removed, again.entries, again.chain) == ({}, 0, "whole")
    assert len(_all(database, removal)) == done.entries


@pytest.mark.once
@pytest.mark.parametrize(
    "gone", [[1], [2], [3], [4], [5], [3, 4], [6], [7], [9], [10], [1, 2, 3, 4, 5], list(range(1, 15))]
)
def test_next_request_after_a_redaction_is_valid(
    face: Face, kit: Any, server: LoopbackServer, database: str, gone: list[int]
) -> None:
    """After redacting a question, a tool call, a tool result, a file or a pinned message."""
    chat = canaries.fill(face, kit, server, database, stray=False)
    for seq in gone:
        if seq not in (1, 14):  # a passage cannot be pinned; the summary is gone with what it sums up
            face.settle(chat.pin(seq))
        face.settle(chat.redact(seq))
    reply = face.settle(chat.send("and now?"))
    sent = server.requests[-1].body["messages"]
    assert find_problems(sent) == []
    assert reply.text == "echo: and now?"
    text = json.dumps(sent, ensure_ascii=False)
    for canary in (each for seq in gone for each in OF_MESSAGE.get(seq, []) if isinstance(each, str)):
        assert canary not in text
    if set(gone) & {3, 4}:
        assert not any(each["role"] == "tool" or each.get("tool_calls") for each in sent)
    if 6 in gone:
        assert "file" not in text
    face.settle(chat.verify())


def test_redact_removes_the_pin(face: Face, kit: Any, database: str) -> None:
    """Other pins stay. The message cannot be pinned again, and unpinning it is no error."""
    chat = kit.chat("k")
    face.settle(chat.send("hello"))
    face.settle(chat.pin(1))
    face.settle(chat.pin(2))
    assert face.settle(chat.redact(1)).removed["conversation"] == 1
    with pytest.raises(Redacted):
        face.settle(chat.pin(1))
    face.settle(chat.unpin(1))
    pins = change(
        database, lambda connection: connection.exec_driver_sql("SELECT pins FROM convokit_conversation").all()
    )
    assert [row[0] for row in pins] == ["[2]"]


@pytest.mark.once
def test_listings_show_redacted_rows_without_text(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """A redacted passage is still not listed as a message."""
    chat = canaries.fill(face, kit, server, database, stray=False)
    for seq in range(1, 15):
        face.settle(chat.redact(seq))
    listed = face.settle(chat.messages())
    assert [each.seq for each in listed] == list(range(2, 15))
    assert {(each.status, each.text) for each in listed} == {("redacted", "")}
    assert [each.seq for each in face.settle(chat.messages(passages=True))] == list(range(1, 15))
    assert {each.error is None for each in face.settle(chat.turns())} == {True}
    found = face.settle(chat.context("and now?"))
    assert [each["content"] for each in found.messages] == [canaries.PROMPT, "and now?"]
    assert {part.rule for part in found.report.dropped} == {"redacted", "a tool result without its call"}


@pytest.mark.once
def test_replay_of_a_redacted_request_has_status_redacted(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """Not "mismatch". The same after an erasure."""
    chat = canaries.fill(face, kit, server, database, stray=False)
    turns = [each.id for each in face.settle(chat.turns())]
    face.settle(chat.redact(6))
    assert [face.settle(chat.replay(each)).status for each in turns] == ["exact", *["redacted"] * (len(turns) - 1)]
    face.settle(chat.erase())
    assert {face.settle(chat.replay(each)).status for each in turns} == {"redacted"}
    assert face.settle(chat.replay(turns[0])).body is None


def test_resume_and_repeat_of_a_redacted_turn(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A redacted reply is neither made again nor returned empty. A redacted question is not asked again."""
    chat = kit.chat("k")
    face.settle(chat.send("first", idempotency_key="1"))
    face.settle(chat.redact(2))
    for call in (chat.resume, lambda: chat.send("first", idempotency_key="1")):
        with pytest.raises(Redacted, match="reply"):
            face.settle(call())
    with pytest.raises(Redacted, match="reply"):
        face.collect(chat.follow())
    face.settle(chat.redact(1))
    with pytest.raises(Redacted, match="question"):
        face.settle(chat.send("first", idempotency_key="1"))
    server.script(failure(400, "no"))
    with pytest.raises(ConvokitError):
        face.settle(chat.send("second"))
    requests = len(server.requests)
    face.settle(chat.redact(3))
    with pytest.raises(Redacted, match="question"):
        face.settle(chat.resume())
    assert len(server.requests) == requests


def test_resume_after_redacting_a_partial_reply(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """Resume asks for the reply again, after the question."""
    chat = kit.chat("k")
    server.script(Script([chunk({"content": "half"}), None], headers={"content-type": "text/event-stream"}))
    with pytest.raises(ConvokitError):
        face.collect(chat.stream("go on"))
    face.settle(chat.redact(2))
    reply = face.settle(chat.resume())
    assert (reply.text, reply.message.parent_seq) == ("echo: go on", 1)
    face.settle(chat.verify())


def test_binary_is_deleted_with_its_last_reference(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    chat = kit.chat("k")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    face.settle(chat.send([image]))
    face.settle(chat.send([image, "again"]))
    assert "blob" not in face.settle(chat.redact(1)).removed
    assert face.settle(chat.redact(3)).removed["blob"] == 1


def test_redact_refuses_a_message_id_of_another_conversation(face: Face, kit: Any) -> None:
    face.settle(kit.chat("a").send("hello"))
    face.settle(kit.chat("b").send("hello"))
    other = face.settle(kit.chat("a").messages())[0]
    with pytest.raises(InvalidInput):
        face.settle(kit.chat("b").redact(other))


def test_redaction_does_not_move_the_window(sqlite_file: str, server: LoopbackServer) -> None:
    """Token counts along the path stay the same."""
    with Convokit(sqlite_file, model="m", base_url=server.url) as kit:
        chat = kit.chat("k")
        for number in range(6):
            chat.send(f"question {number}", passages=["a passage"])
        before = chat.context("and now?").report
        chat.redact(7)
        chat.redact(8)
        after = chat.context("and now?").report
        assert after.start == before.start
        assert after.tokens < before.tokens
