"""Find the conversation, and the message in it, that a request continues.

The rows of the decision table in docs/explanation/addressing.md are named in the comments. A client that sends its whole
history is never refused because its conversation is busy, and never changes what is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from convokit.async_chat import AsyncChat
from convokit.async_kit import AsyncConvokit
from convokit.domain.conversation import Conversation
from convokit.domain.message import ASSISTANT, USER, Message
from convokit.domain.turn import Turn
from convokit.errors import InvalidInput, NotFound
from convokit.server import matching
from convokit.server.api_ids import parse_conversation_id
from convokit.server.client_messages import count_trailing_results
from convokit.server.database import Database
from convokit.server.refusals import not_found
from convokit.store.anchors import AnchoredConversation

Kind = Literal["new", "append", "branch", "regenerate", "window", "detached", "delta", "attach"]
_WALK = 64
"""How many stored messages are compared one by one behind the last anchor, or looked through for a client's window."""
_PAGE = 500
"""Messages of one read along the main path."""
_FEW = 8
"""So many messages are looked for one by one. More are read along the main path first."""
_LEAVES = 8
"""Of so many conversations with the same beginning, one that nothing follows is preferred."""
_FIRST_RETRY = timedelta(minutes=15)
"""How long the repeat of a first question without a name finds the conversation that it started."""


@dataclass(frozen=True, slots=True)
class Address:
    """The conversation that a request names, or the scope in which its history is matched."""

    thread: str | None = None
    """The name of the conversation: its key, or `conv_` and its id."""
    scope: str = ""
    """The caller and the person that he speaks for. Histories are matched within one scope."""
    subject: str | None = None
    """The person that a new conversation belongs to."""
    mode: Literal["auto", "append"] = "auto"
    """`append`: all messages are new."""
    is_retry: bool = False
    """Whether the client says that it sent the same request before."""
    match_history: bool = True


@dataclass(slots=True)
class Place:
    """The conversation and the message that a turn continues."""

    chat: AsyncChat
    kind: Kind
    after: int | None = None
    """The seq of the message that the new ones follow. None: the end of the branch."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The messages that are not stored yet, the answered one last."""
    answered: Message | None = None
    """For `regenerate` and `attach`: the stored message that the turn answers. Tool results stay in `messages` as well."""
    turn: Turn | None = None
    """For `attach`: the turn to return to."""
    leaves_main: bool = False
    """Whether the turn makes a new branch. The main branch follows it if the client continues there."""
    start: int = 1
    """The seq of the first message that the client sent."""
    digests: Sequence[bytes] = ()
    """The digests of what the client sent, for the anchors of this turn. Empty: no anchor is written."""


@dataclass(slots=True)
class _Match:
    """The longest prefix of what was sent that is stored: `count` messages, the last of them with seq `seq`."""

    seq: int = 0
    count: int = 0
    message: Message | None = None
    """The last message, if it was read."""


class Addressing:
    """Finds the places of requests that send their history, or a part of it."""

    def __init__(self, kit: AsyncConvokit, database: Database) -> None:
        self._kit = kit
        self._database = database

    async def find_place(self, address: Address, sent: list[dict[str, Any]]) -> Place:
        """Return the place of a request. `sent` are its messages without instructions, at least one. Raises: Refusal."""
        digests = await self._database.compute_digests(address.scope, sent)
        if address.thread is not None:
            conversation = await self._find_thread(address.thread, digests[1:])
        elif address.match_history:
            conversation = await self._find_by_history(digests, is_retry=address.is_retry)
        else:
            conversation = None
        if conversation is None or conversation.head_seq is None:  # rows 5 and 14
            return Place(self._open(address, conversation), "new", _before(conversation), sent, digests=digests)
        chat = self._kit.chat(id=conversation.id)
        if address.mode == "append":  # row 4
            return await self._find_delta(chat, sent, is_retry=address.is_retry)
        return await self._place(chat, conversation, sent, digests, is_retry=address.is_retry)

    def _open(self, address: Address, conversation: AnchoredConversation | None) -> AsyncChat:
        if conversation is not None:
            return self._kit.chat(id=conversation.id)
        return self._kit.chat(address.thread, subject=address.subject)

    async def _place(
        self,
        chat: AsyncChat,
        conversation: AnchoredConversation,
        sent: list[dict[str, Any]],
        digests: Sequence[bytes],
        *,
        is_retry: bool,
    ) -> Place:
        """Return the place in an existing conversation, from the longest part of the history that has an anchor."""
        counts = {digest: count for count, digest in enumerate(digests)}
        found = ((row.seq, counts[row.digest]) for row in conversation.anchors)
        match = _Match(*max(found, key=lambda pair: (pair[1], pair[0]), default=(0, 0)))
        body = len(sent) - count_trailing_results(sent)  # the results of a reply are one step, however many they are
        whole, head = match, conversation.head_seq or 0
        if match.count == 0 or match.seq != conversation.last_seq:
            match = await self._walk(chat, match, sent[:body])
            whole = await self._walk(chat, match, sent) if match.count == body else match
        if whole.count == len(sent):  # rows 6 and 7
            message = whole.message or await read_message(chat, whole.seq)
            turn = await find_turn(chat, message)
            kind: Kind = "attach" if turn is not None and (is_retry or turn.state == "open") else "regenerate"
            place = Place(chat, kind, match.seq, sent[body:], message, turn, digests=digests)
            place.leaves_main = not await self._is_at_head(chat, whole.seq, head)
            return place
        if match.count:  # rows 8 and 9
            kind = "append" if match.seq == head else "branch"
            return Place(chat, kind, match.seq, sent[match.count :], digests=digests)
        overlap, start = await self._find_overlap(chat, sent)
        if overlap:  # row 10; its prefixes are no prefixes of the path, so it gets no anchor
            return Place(chat, "window", head, sent[overlap:], start=start)
        return Place(chat, "detached", 0, sent, leaves_main=True, digests=digests)  # row 11

    async def _is_at_head(self, chat: AsyncChat, seq: int, head: int) -> bool:
        """Return whether the main branch ends with a message or with a reply to it.

        Elsewhere, another reply starts a new branch: the message may be a title request that the client repeats.
        """
        return seq == head or any(child.seq == head for child in await chat.children(seq, limit=_WALK))

    async def open_thread(self, thread: str) -> AsyncChat | None:
        """Return the conversation of a name; None for a key that was never used. Raises: Refusal."""
        conversation = await self._find_thread(thread, [b""])
        return None if conversation is None else self._kit.chat(id=conversation.id)

    async def _find_thread(self, thread: str, digests: Sequence[bytes]) -> AnchoredConversation | None:
        is_id = thread.startswith("conv_")
        id_ = parse_conversation_id(thread) if is_id else await self._database.identify(thread)
        conversation = await self._database.find_conversation(id_, digests)
        if is_id and (conversation is None or conversation.is_archived):  # the id of a deleted one names nothing
            raise not_found("Conversation", thread)
        return conversation

    async def find_after(self, chat: AsyncChat, seq: int, sent: list[dict[str, Any]], *, is_retry: bool) -> Place:
        """Return the place of messages that are all new, behind message `seq` (row 3)."""
        if is_retry:
            match = await self._walk(chat, _Match(seq), sent)
            turn = None if match.message is None else await find_turn(chat, match.message)
            if match.count == len(sent) and turn is not None:
                return Place(chat, "attach", seq, sent, match.message, turn)
        return Place(chat, "delta", seq, sent)

    async def _find_delta(self, chat: AsyncChat, sent: list[dict[str, Any]], *, is_retry: bool) -> Place:
        """Return the place of messages that are all new, at the end of the conversation (rows 2 and 4)."""
        if is_retry:
            last = await chat.messages(limit=2)
            asked = next((message for message in reversed(last) if message.role != ASSISTANT), None)
            if asked is not None and matching.is_equal(asked, sent[-1]):
                turn = await find_turn(chat, asked)
                if turn is not None:
                    return Place(chat, "attach", None, sent, asked, turn)
        return Place(chat, "delta", None, sent)

    async def find_delta(
        self, chat: AsyncChat, conversation: Conversation, sent: list[dict[str, Any]], *, is_retry: bool
    ) -> Place:
        """Return the place of messages that are all new, at the end of a conversation that may be empty."""
        if conversation.head is None:
            return Place(chat, "new", 0 if conversation.last_seq else None, sent)
        return await self._find_delta(chat, sent, is_retry=is_retry)

    async def _find_by_history(self, digests: Sequence[bytes], *, is_retry: bool) -> AnchoredConversation | None:
        """Return the conversation with the longest prefix, among all of the tenant (rows 12 and 13).

        One opening question never names a conversation, but a prompt repeat of it does.
        """
        is_first = is_retry and len(digests) == 2
        found = await self._database.find_conversations(digests[1 if is_first else 2 :])
        if is_first:
            oldest = (datetime.now(UTC) - _FIRST_RETRY).timestamp() * 1_000_000
            return next((each for each in found if each.anchors[0].created_at >= oldest), None)
        counts = {digest: count for count, digest in enumerate(digests)}
        longest = max((counts[each.anchors[0].digest] for each in found), default=0)
        same = [each for each in found if counts[each.anchors[0].digest] == longest]  # newest first
        for each in same[:_LEAVES] if len(same) > 1 else ():
            if not await self._kit.chat(id=each.id).children(each.anchors[0].seq, limit=1):
                return each
        return same[0] if same else None

    async def _walk(self, chat: AsyncChat, match: _Match, sent: Sequence[Mapping[str, Any]]) -> _Match:
        """Extend a match while stored messages equal the sent ones: first along the main path, then on any branch.

        The walk replaces lost anchors, and finds questions, which have none.
        """
        while len(sent) - match.count > _FEW:
            page = await _read_behind(chat, match.seq)
            before = match.count
            for message in page[: len(sent) - match.count]:
                if not matching.is_equal(message, sent[match.count]):
                    break
                match = _Match(message.seq, match.count + 1, message)
            if match.count - before < _PAGE:
                break
        for _ in range(_WALK):
            if match.count == len(sent):
                break
            children = await chat.children(match.seq, limit=_WALK)
            equal = matching.list_equal(children, sent[match.count])
            if not equal:
                break
            match = _Match(equal[-1].seq, match.count + 1, equal[-1])
        return match

    async def _find_overlap(self, chat: AsyncChat, sent: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Return how many of the messages are the end of the stored path, and the seq of the first one: row 10.

        A client that sends its last messages only starts anywhere in the path.
        """
        tail = await chat.messages(limit=_WALK)
        stored = [matching.canonicalize(matching.to_stored_form(message)) for message in tail]
        given = [matching.canonicalize(message) for message in sent[: len(stored)]]
        for count in range(min(len(stored), len(sent) - 1), 1, -1):  # two in a row at least
            if stored[-count:] == given[:count]:
                return count, tail[-count].seq
        return 0, 1


def _before(conversation: AnchoredConversation | None) -> int | None:
    """Return where the first message of a main branch goes: 0 if other branches have messages already."""
    return 0 if conversation is not None and conversation.last_seq else None


async def _read_behind(chat: AsyncChat, seq: int) -> list[Message]:
    """Return the next messages on the main path; none if message `seq` is not on it."""
    try:
        return await chat.messages(after=seq, limit=_PAGE)
    except InvalidInput:  # the message is on another branch
        return []


async def read_message(chat: AsyncChat, seq: int) -> Message:
    """Return one message of the chat. Raises: NotFound."""
    for message in await chat.messages(around=seq, limit=1):
        if message.seq == seq:
            return message
    raise NotFound("message", seq)


async def find_turn(chat: AsyncChat, answered: Message) -> Turn | None:
    """Return the newest turn that answers a question, or the turn that tool results started."""
    if answered.role == USER:
        turns = await chat.turns(question=answered.seq, limit=1)
        return turns[-1] if turns else None
    return None if answered.turn_id is None else await chat.turn(answered.turn_id)


async def fork(place: Place) -> Place:
    """Return the same place on a new branch."""
    return replace(place, chat=await place.chat.fork(place.after), after=None)


def hash_thread(scope: str, idempotency_key: str) -> str:
    """Return the name of the conversation that a request with an idempotency key and no other name starts (row 1)."""
    return "idempotency:" + hashlib.sha256(f"{scope}\n{idempotency_key}".encode("utf-8", "replace")).hexdigest()
