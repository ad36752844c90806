"""The metadata of a turn: read back, exported, restored, and removed with the texts of its turn."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from convokit.errors import InvalidInput, NotFound, TooLarge
from tests.history.helpers import rows
from tests.support.faces import Face
from tests.support.server import LoopbackServer
from tests.transfer.test_export_import import into, out

METADATA = {"会話": ["ひみつ", 1, None]}


def _read_all(face: Face, chat: Any) -> list[Any]:
    return [turn.metadata for turn in face.settle(chat.turns())]


def test_metadata_is_read_back_as_it_was(face: Face, kit: Any) -> None:
    """Any JSON value; None where there is none."""
    chat = kit.chat("k")
    values: list[Any] = [METADATA, "text", [1, 2], 0, False]
    for value in values:
        face.settle(chat.send("x", turn_metadata=value))
    face.collect(chat.stream("x", turn_metadata="streamed"))
    face.settle(chat.send("x"))
    assert _read_all(face, chat) == [*values, "streamed", None]
    face.settle(chat.verify())


@pytest.mark.once
def test_metadata_is_checked(face: Face, kit: Any) -> None:
    """Its size and its values."""
    chat = kit.chat("k")
    with pytest.raises(TooLarge, match="turn_metadata"):
        face.settle(chat.send("x", turn_metadata="x" * 70_000))
    with pytest.raises(InvalidInput, match=r"turn_metadata\.a"):
        face.settle(chat.send("x", turn_metadata={"a": object()}))


def test_a_trusted_restore_brings_metadata_back_and_an_import_counts_it(
    face: Face, kit: Any, twin: str, server: LoopbackServer
) -> None:
    """An export contains it."""
    chat = kit.chat("k")
    face.settle(chat.send("x", turn_metadata=METADATA))
    face.settle(chat.send("y"))
    lines = out(face, kit)
    restored = face.kit(twin, model="m", base_url=server.url)
    into(face, restored, lines)
    assert _read_all(face, restored.chat("k")) == [METADATA, None]
    found = into(face, face.kit(twin, model="m", tenant="stranger"), lines, trusted=False)
    assert (found.left_out["turns"], found.left_out["turn_metadata"]) == (2, 1)


def test_redaction_and_erasure_remove_metadata(face: Face, kit: Any, database: str) -> None:
    """A redaction of any message of the turn, and counted; other turns keep theirs until all is erased."""
    chat = kit.chat("k")
    replies = [face.settle(chat.send("x", turn_metadata=METADATA)) for _ in range(3)]
    assert face.settle(chat.redact(1, dry_run=True)).removed["turn"] == 1
    assert face.settle(chat.redact(1)).removed["turn"] == 1
    face.settle(chat.redact(replies[-1].message))
    assert _read_all(face, chat) == [None, METADATA, None]
    assert face.settle(chat.erase()).removed["turn"] == 1
    left = rows(database, "SELECT count(*) FROM convokit_turn WHERE metadata IS NOT NULL")
    assert left[0][0] == 0
    face.settle(chat.verify())


def test_metadata_is_replaced(face: Face, kit: Any) -> None:
    """The turn gets another value or none. Nothing else changes, and the chain stays whole."""
    chat = kit.chat("k")
    reply = face.settle(chat.send("x", turn_metadata=METADATA))
    before = face.settle(kit.conversation("k"))
    face.settle(chat.update_turn(reply.turn_id, metadata={"題": [1]}))
    assert _read_all(face, chat) == [{"題": [1]}]
    face.settle(chat.update_turn(face.settle(chat.turns())[0], metadata=None))
    assert _read_all(face, chat) == [None]
    assert face.settle(kit.conversation("k")) == before
    face.settle(chat.verify())
    with pytest.raises(NotFound):
        face.settle(chat.update_turn(UUID(int=7), metadata=1))
    with pytest.raises(TooLarge, match="metadata"):
        face.settle(chat.update_turn(reply.turn_id, metadata="x" * 70_000))
