"""Erase and redact conversations with branches."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.errors import Redacted
from tests.support.canaries import everywhere, in_rows
from tests.support.faces import Face
from tests.support.server import LoopbackServer

CANARY = "canary on a branch 枝"


def test_erase_covers_all_branches(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """Text and names of all branches are removed. A chat on each branch continues with an empty context."""
    chat = kit.chat("k")
    face.settle(chat.send(f"{CANARY} main"))
    fork = face.settle(chat.fork(name=f"{CANARY} name"))
    face.settle(fork.send(f"{CANARY} fork"))
    face.settle(chat.edit(1, f"{CANARY} edited"))
    face.settle(chat.regenerate())
    receipt = face.settle(fork.erase())
    assert (receipt.remaining, receipt.chain, receipt.removed["message"]) == (0, "whole", 7)
    assert everywhere(database, CANARY) == []
    for each in (chat, fork):
        assert face.settle(each.messages()) == []
        face.settle(each.send("hello"))
        assert [sent["content"] for sent in server.requests[-1].body["messages"]] == ["hello"]
        assert [message.text for message in face.settle(each.messages())] == ["hello", "echo: hello"]
    face.settle(chat.verify())


def test_redacted_question_cannot_be_regenerated_or_edited(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Other questions still can."""
    chat = kit.chat("k")
    face.settle(chat.send("first"))
    face.settle(chat.send("second"))
    face.settle(chat.redact(3))
    requests = len(server.requests)
    for call in (chat.regenerate, lambda: chat.regenerate(4), lambda: chat.edit(3, "other")):
        with pytest.raises(Redacted):
            face.settle(call())
    assert len(server.requests) == requests
    face.settle(chat.edit(1, "first again"))
    face.settle(chat.verify())


def test_redacting_a_regenerated_question_clears_all_request_salts(face: Face, kit: Any, database: str) -> None:
    """No request that included the question keeps its salt."""
    chat = kit.chat("k")
    face.settle(chat.send(CANARY))
    face.settle(chat.regenerate())
    receipt = face.settle(chat.redact(1))
    assert receipt.removed["salt"] == 2
    for seq in (2, 3):
        face.settle(chat.redact(seq))
    assert everywhere(database, CANARY) == []
    face.settle(chat.verify())


def test_copy_is_redacted_and_erased_separately(face: Face, kit: Any, database: str) -> None:
    """A copy keeps what is redacted in the original afterwards."""
    chat = kit.chat("k")
    for number in range(3):
        face.settle(chat.send(f"{CANARY} {number}"))
    face.settle(chat.redact(1))
    copied = face.settle(chat.copy("copy"))
    assert [each.status for each in face.settle(copied.messages())][:2] == ["redacted", "complete"]
    face.settle(chat.erase())
    assert in_rows(database, f"{CANARY} 1") == ["convokit_message.content"]
    receipt = face.settle(copied.erase())
    assert (receipt.remaining, receipt.chain, receipt.removed["message"]) == (0, "whole", 5)
    assert everywhere(database, CANARY) == []
