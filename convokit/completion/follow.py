"""Turns seen from outside: which there are, attaching to one that is running anywhere, cancelling it from anywhere.

The database alone is the meeting point. A running turn stores what comes of its reply about once a second, so a reader in any
process, on any host, gets what it missed and then what comes, a little behind; and whoever holds the turn learns at its next
piece that it was cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Emit, Flow, Sleep, read_flow
from convokit.completion.recovery import close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.result import ended, stored_reply
from convokit.completion.state import ChatRef, KitState
from convokit.completion.turns import find_conversation_flow, read_turns_page
from convokit.domain.conversation import ConversationRow
from convokit.domain.events import Started, TextDelta
from convokit.domain.ids import parse_id
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.domain.turn import OpenTurn, Reply, TurnRow
from convokit.errors import InvalidInput, NotFound
from convokit.store import chunks, messages, turns

POLL_S = 0.25
_MOST_ROWS = 10_000


@dataclass(slots=True, repr=False)
class _Heard:
    """How far a follower has got: `chars` of the turn's text are with its reader. The last piece it has seen may still grow."""

    chars: int
    call: int = 0
    number: int = 0
    """The last piece of that call, and `at` where it begins."""
    at: int = 0

    def fresh(self, text: str, before: int) -> str:
        """Return what the reader has not had yet of a text that begins at `before`, and count it as had."""
        new = text[max(self.chars - before, 0) :]
        self.chars = max(self.chars, before + len(text))
        return new


@dataclass(slots=True, repr=False)
class _Seen:
    turn: TurnRow
    open_turn: OpenTurn | None
    said: list[MessageRow] = field(default_factory=list)
    pieces: list[tuple[int, str]] = field(default_factory=list)


def follow_flow(scope: KitState, target: ChatRef, turn: UUID | str | None, *, after: int) -> Flow[Reply]:
    """Hand out the text of a turn behind its first `after` characters as it comes, and return its reply.

    Raises: Interrupted, with the turn's state as its code, when the turn ends without a whole reply.
    """
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise InvalidInput("after", f"must be the number of characters already had, 0 or more, not {after!r}")
    conversation = yield from find_conversation_flow(scope, target)
    turn_id = yield from _turn_id(conversation, target, turn)
    return (yield from attach_flow(scope, conversation, turn_id, after))


def attach_flow(scope: KitState, conversation: ConversationRow, turn_id: UUID, after: int) -> Flow[Reply]:
    """Do what `follow` does, once it is known which turn."""
    heard = _Heard(after)
    yield Emit([Started(turn_id)])
    while True:
        seen = yield from read_flow(_look, conversation.id, turn_id, heard.call, heard.number)
        if seen is None:
            raise NotFound("turn", turn_id)
        fresh = _listen(heard, seen)
        if fresh:
            yield Emit([TextDelta(fresh)])
        if seen.turn.state == "completed":
            return (yield from read_flow(stored_reply, conversation.id, seen.turn))
        if seen.turn.state != "open":
            raise ended(seen.turn, "".join(row.content or "" for row in seen.said))
        if seen.open_turn is not None and is_worker_gone(scope, seen.open_turn):
            counter = resolve_counter(scope, conversation)
            yield from close_turn_flow(scope, conversation, seen.turn.branch, seen.open_turn, counter, "abandoned")
        else:
            yield Sleep(POLL_S)


def _turn_id(conversation: ConversationRow, target: ChatRef, given: UUID | str | None) -> Flow[UUID]:
    """Return the turn that was named, else the newest of the chat's path."""
    if given is not None:
        return parse_id(given, "turn")
    rows = yield from read_flow(read_turns_page, conversation, target.branch, 1, None)
    if not rows:
        raise NotFound("turn", "to follow", "no message of this chat belongs to one")
    return rows[0].id


def _look(connection: Connection, conversation_id: UUID, turn_id: UUID, call: int, number: int) -> _Seen | None:
    """Read where a turn stands, and what came since piece `number` of `call`; all of it once another call runs."""
    found = turns.find(connection, conversation_id, turn_id)
    if found is None:
        return None
    if found.state != "open":
        return _Seen(found, None, _said(connection, conversation_id, found))
    held = turns.find_open(connection, conversation_id, found.branch)
    same = found.calls == call
    said = [] if same else _said(connection, conversation_id, found)
    brought = chunks.read_chunks_since(connection, conversation_id, turn_id, found.calls, number if same else 0)
    return _Seen(found, held, said, brought)


def _said(connection: Connection, conversation_id: UUID, found: TurnRow) -> list[MessageRow]:
    """Return the turn's own replies, one for each call that counts: no late ones, of broken ones only the last."""
    rows = messages.list_turn_messages(connection, conversation_id, found.id, after=found.from_seq, limit=_MOST_ROWS)
    said: dict[int | None, MessageRow] = {}
    for row in rows:
        broken = row.status == "partial" and (found.state == "open" or row.seq != found.reply_seq)
        if row.role == ASSISTANT and row.status != "late" and not broken:
            said.setdefault(row.parent_seq, row)
    return list(said.values())


def _listen(heard: _Heard, seen: _Seen) -> str:
    """Return what the reader has not had yet of what was read."""
    said = "".join(row.content or "" for row in seen.said)
    if seen.turn.state != "open":
        return heard.fresh(said, 0)
    before = heard.at
    if seen.turn.calls != heard.call:
        heard.call, heard.number, heard.at, before = seen.turn.calls, 0, len(said), 0
    text = said + "".join(piece for _, piece in seen.pieces)
    if seen.pieces:
        heard.number, last = seen.pieces[-1]
        heard.at = before + len(text) - len(last)
    return heard.fresh(text, before)
