"""Exports and imports of redacted and erased conversations."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from convokit.errors import BadRecord
from convokit.store.schema import removal, search, turn
from tests.faults.shared_kit import dump
from tests.support import canaries
from tests.support.canaries import change
from tests.support.faces import Face
from tests.support.server import LoopbackServer
from tests.transfer.test_export_import import into, opened, out, resealed

GONE = (canaries.QUESTION, canaries.REPLY, canaries.RESULT, canaries.FILENAME, canaries.SUMMARY)


def fill(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """Write a conversation of which messages are redacted, and one that was erased and goes on, both with everything."""
    chat = canaries.fill(face, kit, server, database, "redacted", stray=False)
    for seq in (2, 4, 5, 6):
        face.settle(chat.redact(seq, reason="依頼", author="privacy desk"))
    face.settle(chat.edit(8, "a question after it"))
    erased = canaries.fill(face, kit, server, database, "erased", stray=False)
    face.settle(erased.redact(1))
    face.settle(erased.erase(reason="asked for"))
    face.settle(erased.send("anew"))
    face.settle(erased.redact(16))


def shown(face: Face, kit: Any, database: str) -> dict[str, list[str]]:
    """Return how each turn of the two conversations is shown again, in the order of their questions."""
    found = {}
    for key in ("redacted", "erased"):
        chat = kit.chat(key)
        identity = face.settle(chat.verify()).conversation_id
        of_chat = select(turn.c.id).where(turn.c.conversation_id == identity).order_by(turn.c.question_seq, turn.c.id)
        ids = change(database, lambda connection, query=of_chat: list(connection.execute(query).scalars()))
        found[key] = [face.settle(chat.replay(each)).status for each in ids]
    return found


def stored(database: str) -> dict[str, list[str]]:
    """Return every row of every table; of the search index, those that are found by something."""
    engine = opened(database)
    rows = dump(engine)
    engine.dispose()
    return {**rows, search.name: [row for row in rows[search.name] if not row.endswith(", None)")]}


def removals(database: str, identity: Any) -> list[Any]:
    """Return the removals of a conversation."""
    columns = (removal.c.number, removal.c.ref, removal.c.author, removal.c.reason)

    def read(connection: Connection) -> list[Any]:
        query = select(*columns).where(removal.c.conversation_id == identity).order_by(removal.c.number)
        return [tuple(row) for row in connection.execute(query)]

    found: list[Any] = change(database, read)
    return found


@pytest.mark.once
def test_a_restore_keeps_redacted_rows_and_removals(
    face: Face, kit: Any, database: str, twin: str, server: LoopbackServer
) -> None:
    """Rows, head and replays are the same, and no removed text is in the file."""
    fill(face, kit, server, database)
    lines = out(face, kit)
    data = "".join(lines).encode()
    assert not [canary for canary in GONE if any(form in data for form in canaries.forms(canary))]
    restored = face.kit(twin, model="loop-1", base_url=server.url)
    found = into(face, restored, lines)
    assert (found.conversations, found.rechained) == (2, 0)
    for key in ("redacted", "erased"):
        assert face.settle(restored.chat(key).verify()) == face.settle(kit.chat(key).verify())
    before = shown(face, kit, database)
    assert before["redacted"][0] == "redacted"
    *old, anew = before["erased"]
    assert (set(old), anew) == ({"redacted"}, "exact")
    assert shown(face, restored, twin) == before
    change(database, lambda connection: connection.execute(update(turn).values(owner=None)))
    assert stored(database) == stored(twin)


@pytest.mark.once
def test_a_rechained_import_renumbers_removals(
    face: Face, kit: Any, database: str, empty_database: str, server: LoopbackServer
) -> None:
    """In another database each removal has the next higher number, and the same content."""
    fill(face, kit, server, database)
    lines = out(face, kit)
    other = face.kit(empty_database, model="loop-1", base_url=server.url)
    face.settle(other.migrate())
    assert into(face, other, lines).rechained == 2
    for key in ("redacted", "erased"):
        old, new = (face.settle(each.chat(key).verify()) for each in (kit, other))
        assert (new.entries, new.removals) == (old.entries + 1, old.removals)
        moved = [(number + 1, *said) for number, *said in removals(database, old.conversation_id)]
        assert removals(empty_database, new.conversation_id) == moved
    assert shown(face, other, empty_database) == shown(face, kit, database)
    chat = other.chat("erased")
    assert face.settle(chat.send("further")).text == "echo: further"
    assert face.settle(chat.erase()).chain == "whole"
    assert into(face, other, lines).unchanged == 2
    assert face.settle(chat.messages()) == []


FORGERIES: dict[str, tuple[str, str, str, str]] = {
    "a reason": ("removal", '"reason":"依頼"', '"reason":"別"', "removal [0-9]+ does not match its chain entry"),
    "an author": (
        "removal",
        '"author":"privacy desk"',
        '"author":"x"',
        "removal [0-9]+ does not match its chain entry",
    ),
    "a number": ("removal", '"number":', '"number":9', "removal.number: must be from 1 to [0-9]+, not 9"),
    "a message": (
        "removal",
        '"ref":"message:2"',
        '"ref":"message:99"',
        "removal.ref: 'message:99' is not a message or API call",
    ),
    "a kind": ("removal", '"ref":"message:2"', '"ref":"turn:2"', "removal.ref: 'turn:2' is not a message or API call"),
    "a salt": ("removal", '"salt":"', '"salt":"00', "removal [0-9]+ does not match its chain entry"),
    "a time": ("removal", '"created_at":1', '"created_at":991', "removal.created_at: 99.* is not a time"),
    "no removal": ("entry", '"kind":"message"', '"kind":"redaction"', "redaction 1 has no removal"),
}


@pytest.mark.once
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_removal_is_named_by_its_line(
    face: Face, kit: Any, twin: str, empty_database: str, server: LoopbackServer, name: str, *, elsewhere: bool
) -> None:
    """A removal that does not match its chain entry raises with its line, although all digests match."""
    chat = kit.chat("k")
    face.settle(chat.send("one"))
    face.settle(chat.redact(2, reason="依頼", author="privacy desk"))
    lines = out(face, kit)
    kind, before, after, match = FORGERIES[name]
    at = next(number for number, line in enumerate(lines) if line.startswith(f'{{"{kind}"') and before in line)
    forged = resealed([*lines[:at], lines[at].replace(before, after, 1), *lines[at + 1 :]])
    to = face.kit(empty_database if elsewhere else twin, model="loop-1", base_url=server.url)
    face.settle(to.migrate())
    with pytest.raises(BadRecord, match=f"line {at + 1}: {match}"):
        into(face, to, forged)
    found = into(face, to, forged, on_error="skip")
    assert (found.conversations, found.problems[0].line) == (0, at + 1)
    assert into(face, to, lines).conversations == 1
