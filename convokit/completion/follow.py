"""Follow a turn that any process runs.

The database is the meeting point. A running turn stores its reply about once a second. So a reader in any process, on any host,
gets the text that it missed and then the text that comes, a little later (ADR 0018).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Emit, Flow, Sleep, read_flow
from convokit.completion.recovery import close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.result import end_error, read_reply
from convokit.completion.state import ChatRef, KitState, find_conversation_flow
from convokit.domain.conversation import ConversationRow
from convokit.domain.events import Started, TextDelta
from convokit.domain.ids import parse_id
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.domain.turn import OpenTurn, Reply, TurnRow
from convokit.errors import InvalidInput, NotFound
from convokit.store import chunks, messages, turns
from convokit.store.turn_pages import read_turns_page

POLL_S = 0.25
_MAX_ROWS = 10_000


@dataclass(slots=True, repr=False)
class _Position:
    """The position of a reader in the text of a turn, in characters. The last chunk that it read may still grow."""

    chars: int
    call: int = 0
    chunk: int = 0
    """The number of the last chunk of `call`."""
    chunk_start: int = 0
    """The character at which that chunk starts."""

    def take(self, text: str, start: int) -> str:
        """Return the part of a text from character `start` on that is new, and move behind it."""
        new = text[max(self.chars - start, 0) :]
        self.chars = max(self.chars, start + len(text))
        return new


@dataclass(slots=True, repr=False)
class _Progress:
    """The stored state of a turn."""

    turn: TurnRow
    open_turn: OpenTurn | None
    replies: list[MessageRow] = field(default_factory=list)
    chunks: list[tuple[int, str]] = field(default_factory=list)


def follow_flow(kit: KitState, chat: ChatRef, turn: UUID | str | None, *, after: int) -> Flow[Reply]:
    """Emit the text of a turn from character `after` on as it comes, and return its reply.

    Raises: Interrupted, with the turn's state as its code, if the turn ends without a whole reply.
    """
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise InvalidInput("after", f"must be the number of characters that you have, 0 or more, not {after!r}")
    conversation = yield from find_conversation_flow(kit, chat)
    turn_id = yield from _find_turn_id_flow(conversation, chat, turn)
    return (yield from attach_flow(kit, conversation, turn_id, after))


def attach_flow(kit: KitState, conversation: ConversationRow, turn_id: UUID, after: int) -> Flow[Reply]:
    """Follow a turn by its id; see `follow_flow`."""
    position = _Position(after)
    yield Emit([Started(turn_id)])
    while True:
        progress = yield from read_flow(_read_progress, conversation.id, turn_id, position.call, position.chunk)
        if progress is None:
            raise NotFound("turn", turn_id)
        text = _take_new_text(position, progress)
        if text:
            yield Emit([TextDelta(text)])
        turn = progress.turn
        if turn.state == "completed":
            return (yield from read_flow(read_reply, conversation.id, turn))
        if turn.state != "open":
            raise end_error(turn, "".join(row.content or "" for row in progress.replies))
        if progress.open_turn is not None and is_worker_gone(kit, progress.open_turn):
            counter = resolve_counter(kit, conversation)
            yield from close_turn_flow(kit, conversation, turn.branch, progress.open_turn, counter, "abandoned")
        else:
            yield Sleep(POLL_S)


def _find_turn_id_flow(conversation: ConversationRow, chat: ChatRef, turn: UUID | str | None) -> Flow[UUID]:
    """Return the id of the given turn, else of the newest turn of the chat's path."""
    if turn is not None:
        return parse_id(turn, "turn")
    rows = yield from read_flow(read_turns_page, conversation, chat.branch, 1, None)
    if not rows:
        raise NotFound("turn", "to follow", "no message of this chat belongs to a turn")
    return rows[0].id


def _read_progress(
    connection: Connection, conversation_id: UUID, turn_id: UUID, call: int, chunk: int
) -> _Progress | None:
    """Read the turn and the chunks after `chunk` of `call`; all chunks, and the replies before them, if another call runs."""
    turn = turns.find(connection, conversation_id, turn_id)
    if turn is None:
        return None
    if turn.state != "open":
        return _Progress(turn, None, _list_replies(connection, conversation_id, turn))
    open_turn = turns.find_open(connection, conversation_id, turn.branch)
    is_same_call = turn.calls == call
    replies = [] if is_same_call else _list_replies(connection, conversation_id, turn)
    after = chunk if is_same_call else 0
    new_chunks = chunks.read_chunks_since(connection, conversation_id, turn_id, turn.calls, after)
    return _Progress(turn, open_turn, replies, new_chunks)


def _list_replies(connection: Connection, conversation_id: UUID, turn: TurnRow) -> list[MessageRow]:
    """Return the turn's replies, one for each call: no late ones, and of broken ones only the turn's last."""
    rows = messages.list_turn_messages(connection, conversation_id, turn.id, after=turn.from_seq, limit=_MAX_ROWS)
    replies: dict[int | None, MessageRow] = {}
    for row in rows:
        is_replaced = row.status == "partial" and (turn.state == "open" or row.seq != turn.reply_seq)
        if row.role == ASSISTANT and row.status != "late" and not is_replaced:
            replies.setdefault(row.parent_seq, row)
    return list(replies.values())


def _take_new_text(position: _Position, progress: _Progress) -> str:
    """Return the text that the reader does not have yet, and move its position."""
    replies = "".join(row.content or "" for row in progress.replies)
    if progress.turn.state != "open":
        return position.take(replies, 0)
    start = position.chunk_start
    if progress.turn.calls != position.call:
        position.call, position.chunk, position.chunk_start, start = progress.turn.calls, 0, len(replies), 0
    text = replies + "".join(chunk for _, chunk in progress.chunks)
    if progress.chunks:
        position.chunk, last = progress.chunks[-1]
        position.chunk_start = start + len(text) - len(last)
    return position.take(text, start)
