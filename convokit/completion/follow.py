"""Follow a turn that any process runs.

The database is the meeting point. A running turn stores its reply about once a second. So a reader in any process, on any host,
gets the chunks that it missed and then those that come, a little later (ADR 0018).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Emit, Flow, Sleep, read_flow
from convokit.completion.recovery import close_turn_flow, is_worker_gone, resolve_counter
from convokit.completion.result import end_error, read_reply
from convokit.completion.saved_reply import Reply
from convokit.completion.state import ChatRef, KitState, find_conversation_flow
from convokit.completion.stored_events import ReplyEvent, list_chunk_events, list_reply_events
from convokit.domain.conversation import ConversationRow
from convokit.domain.events import ReasoningDelta, RefusalDelta, Started, StreamEvent, TextDelta, ToolCallDelta
from convokit.domain.ids import parse_id
from convokit.domain.message import ASSISTANT, MessageRow
from convokit.domain.turn import OpenTurn, TurnRow
from convokit.errors import InvalidInput, NotFound
from convokit.store import chunks, messages, turns
from convokit.store.turn_pages import read_turns_page

POLL_S = 0.25
_MAX_ROWS = 10_000


_Part = tuple[object, ...]
"""A text that a turn's replies consist of: the whole turn's text, or a reply's reasoning, refusal or arguments of a call."""
_TEXT: _Part = ("text",)


@dataclass(slots=True, repr=False)
class _Position:
    """The position of a reader in a turn. The last chunk that it read may still grow."""

    after: int
    """The characters of text that the reader had before. Chunks of other kinds that came before them are not repeated."""
    read: dict[_Part, int]
    """The characters that the reader has of each part."""
    call: int = 0
    chunk: int = 0
    """The number of the last chunk of `call`."""
    reply: int = 0
    """The number of replies before the one that `call` makes."""
    chunk_start: dict[_Part, int] = field(default_factory=dict)
    """The characters of each part before that chunk."""

    def take(self, events: Iterable[ReplyEvent], reply: int, start: dict[_Part, int]) -> list[ReplyEvent]:
        """Return what is new in the events of a reply that begin at `start`, and move behind them. Moves `start` too."""
        found: list[ReplyEvent] = []
        for event in events:
            part, text = _split_event(event, reply)
            first = start.get(part, 0)
            start[part] = first + len(text)
            is_old = part != _TEXT and start.get(_TEXT, 0) < self.after
            known = self.read.get(part)
            self.read[part] = max(known or 0, start[part])
            new = text[max((known or 0) - first, 0) :]
            if not is_old and (new or (known is None and isinstance(event, ToolCallDelta))):
                found.append(_replace_text(event, new))
        return found


def _split_event(event: ReplyEvent, reply: int) -> tuple[_Part, str]:
    """Return the part that an event of a turn's reply belongs to, and the text that the event adds to it."""
    if isinstance(event, TextDelta):
        return _TEXT, event.text
    if isinstance(event, ReasoningDelta):
        return (reply, "reasoning"), event.reasoning
    if isinstance(event, RefusalDelta):
        return (reply, "refusal"), event.refusal
    return (reply, "tool_call", event.position), event.arguments


def _replace_text(event: ReplyEvent, text: str) -> ReplyEvent:
    if isinstance(event, TextDelta):
        return TextDelta(text)
    if isinstance(event, ReasoningDelta):
        return ReasoningDelta(text)
    if isinstance(event, RefusalDelta):
        return RefusalDelta(text)
    return replace(event, arguments=text)


@dataclass(slots=True, repr=False)
class _Progress:
    """The stored state of a turn."""

    turn: TurnRow
    open_turn: OpenTurn | None
    replies: list[MessageRow] = field(default_factory=list)
    chunks: list[chunks.ChunkRow] = field(default_factory=list)


def follow_flow(kit: KitState, chat: ChatRef, turn: UUID | str | None, *, after: int) -> Flow[Reply]:
    """Emit what a turn brings, its text from character `after` on, as it comes, and return its reply.

    Raises: Interrupted, with the turn's state as its code, if the turn ends without a whole reply. A read-only kit leaves the
    turn of a dead worker open.
    """
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise InvalidInput("after", f"must be the number of characters that you have, 0 or more, not {after!r}")
    conversation = yield from find_conversation_flow(kit, chat)
    turn_id = yield from _find_turn_id_flow(conversation, chat, turn)
    return (yield from attach_flow(kit, conversation, turn_id, after))


def attach_flow(kit: KitState, conversation: ConversationRow, turn_id: UUID, after: int) -> Flow[Reply]:
    """Follow a turn by its id; see `follow_flow`."""
    position = _Position(after, {_TEXT: after})
    events: list[StreamEvent] = [Started(turn_id)]
    while True:
        progress = yield from read_flow(_read_progress, conversation.id, turn_id, position.call, position.chunk)
        if progress is None:
            raise NotFound("turn", turn_id)
        events += _take_new_events(position, progress)
        if events:
            yield Emit(events)
        events = []
        turn = progress.turn
        if turn.state == "completed":
            return (yield from read_flow(read_reply, conversation.id, turn))
        if turn.state != "open":
            raise end_error(turn, "".join(row.content or "" for row in progress.replies))
        if progress.open_turn is not None and is_worker_gone(kit, progress.open_turn):
            if kit.read_only:
                raise end_error(turn, (yield from read_flow(_read_stored_text, conversation.id, turn)))
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


def _read_stored_text(connection: Connection, conversation_id: UUID, turn: TurnRow) -> str:
    """Return the text of an open turn: of its replies, and of the call that its worker did not finish."""
    replies = _list_replies(connection, conversation_id, turn)
    stored = chunks.read_partial_text(connection, conversation_id, turn.id)
    return "".join(row.content or "" for row in replies) + stored


def _list_replies(connection: Connection, conversation_id: UUID, turn: TurnRow) -> list[MessageRow]:
    """Return the turn's replies, one for each call: no late ones, and of broken ones only the turn's last."""
    rows = messages.list_turn_messages(connection, conversation_id, turn.id, after=turn.from_seq, limit=_MAX_ROWS)
    replies: dict[int | None, MessageRow] = {}
    for row in rows:
        is_replaced = row.status == "partial" and (turn.state == "open" or row.seq != turn.reply_seq)
        if row.role == ASSISTANT and row.status != "late" and not is_replaced:
            replies.setdefault(row.parent_seq, row)
    return list(replies.values())


def _take_new_events(position: _Position, progress: _Progress) -> list[ReplyEvent]:
    """Return what the reader does not have yet, and move its position."""
    found: list[ReplyEvent] = []
    is_open = progress.turn.state == "open"
    if not is_open or progress.turn.calls != position.call:
        position.chunk_start = {}
        for number, row in enumerate(progress.replies):
            found += position.take(list_reply_events(row), number, position.chunk_start)
        position.call, position.chunk, position.reply = progress.turn.calls, 0, len(progress.replies)
    start = position.chunk_start
    for chunk in progress.chunks:
        position.chunk, position.chunk_start = chunk.number, dict(start)
        found += position.take(list_chunk_events(chunk), position.reply, start)
    return found
