"""Find and list the items of stored conversations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

from convokit.async_chat import AsyncChat
from convokit.domain.ids import parse_message_seq
from convokit.domain.message import ASSISTANT, INSTRUCTION_ROLES, Message
from convokit.server.addressing import read_message
from convokit.server.api_ids import ItemName, parse_item_id
from convokit.server.gateway import Session
from convokit.server.item_shapes import Item, format_items, inline_binaries
from convokit.server.refusals import not_found
from convokit.server.request_body import read_limit, read_order

_PAGE = 100
"""Messages of one read."""
_MAX_PATH = 1000
_MESSAGES_PER_ITEM = 3
"""A client that refers to each reply has skipped about so many messages for each."""
MessagePair = tuple[Message, Message | None]
"""A message, and the one that follows it on the path."""


class ItemFinder:
    """Finds the items that one request names. It reads a conversation once, however many of its items are named."""

    def __init__(self, session: Session, count: int = 1) -> None:
        """`count` is the number of items that the request names."""
        self._session = session
        self._count = count
        self._chats: dict[UUID, AsyncChat | None] = {}
        self._messages: dict[tuple[UUID, UUID | int], Message] = {}
        """By the conversation, and the seq of the message or the turn that it is the reply of."""

    async def find(self, given: str) -> tuple[AsyncChat, Message, Item]:
        """Return the chat, the message and the item that an id names, if they are the tenant's. Raises: Refusal."""
        name = parse_item_id(given)
        if name.conversation_id not in self._chats:
            self._chats[name.conversation_id] = await self._open(name.conversation_id)
        chat = self._chats[name.conversation_id]
        message = None if chat is None else await self._find_message(chat, name)
        if chat is not None and message is not None and message.status != "redacted":
            for item in format_items(name.conversation_id, message, is_reply=name.turn_id is not None):
                if item["id"] == given:
                    return chat, message, item
        raise not_found("Item", given)

    async def _open(self, conversation_id: UUID) -> AsyncChat | None:
        conversation = await self._session.kit.conversation(id=conversation_id)
        if conversation is None or conversation.archived_at is not None:
            return None
        chat = self._session.kit.chat(id=conversation_id)
        if self._count > 1:
            limit = min(self._count * _MESSAGES_PER_ITEM, _MAX_PATH)
            for message in await chat.messages(limit=limit):
                self._messages[conversation_id, message.seq] = message
                if message.role == ASSISTANT and message.turn_id is not None:
                    self._messages[conversation_id, message.turn_id] = message  # the last one of a turn is its reply
        return chat

    async def _find_message(self, chat: AsyncChat, name: ItemName) -> Message | None:
        key = name.turn_id if name.turn_id is not None else name.seq or 0
        known = self._messages.get((name.conversation_id, key))
        if known is not None:
            return known
        try:
            seq = name.seq
            if name.turn_id is not None:
                reply = (await chat.turn(name.turn_id)).reply
                seq = None if reply is None else parse_message_seq(name.conversation_id, reply)
            return None if not seq else await read_message(chat, seq)
        except (LookupError, ValueError):
            return None


async def read_item_page(session: Session, chat: AsyncChat, last: int | None = None) -> dict[str, Any]:
    """Return the page of items that the query asks for: of a chat's path, or of the path to message `last`. Raises: Refusal."""
    request = session.request
    limit, is_descending, after = read_limit(request), read_order(request), request.query_params.get("after")
    found: list[Item] = []
    cursor: Message | None = None
    if after is not None:
        owner, cursor, _ = await ItemFinder(session).find(after)
        if owner.id != chat.id:
            raise not_found("Item", after, param="after")
        is_reply = parse_item_id(after).turn_id is not None
        found = _list_behind(after, _format(chat, cursor, is_reply=is_reply, is_descending=is_descending))
    pairs = _read_descending(chat, cursor, last) if is_descending else _read_ascending(chat, cursor, last)
    async for message, following in pairs:
        if len(found) > limit:
            break
        if message.status != "redacted" and message.role not in INSTRUCTION_ROLES:
            is_reply = message.role == ASSISTANT and (following is None or following.turn_id != message.turn_id)
            found += _format(chat, message, is_reply=is_reply, is_descending=is_descending)
    data = await inline_binaries(chat, found[:limit])
    return format_page(data, has_more=len(found) > limit)


def _format(chat: AsyncChat, message: Message, *, is_reply: bool, is_descending: bool) -> list[Item]:
    assert chat.id is not None
    items = format_items(chat.id, message, is_reply=is_reply)
    return items[::-1] if is_descending else items


def _list_behind(item_id: str, items: Iterable[Item]) -> list[Item]:
    """Return the items behind the one with an id."""
    ids = [item["id"] for item in items]
    return list(items)[ids.index(item_id) + 1 :]


async def _read_descending(chat: AsyncChat, cursor: Message | None, last: int | None) -> AsyncIterator[MessagePair]:
    """Yield the messages of a path before the cursor, the newest first: of the path to message `last`, or of the branch."""
    following = cursor
    if cursor is None and last is not None:
        following = await read_message(chat, last)
        yield following, None
    while True:
        before = None if following is None else following.seq
        page = await chat.messages(before=before, limit=_PAGE)
        for message in reversed(page):
            yield message, following
            following = message
        if len(page) < _PAGE:
            return


async def _read_ascending(chat: AsyncChat, cursor: Message | None, last: int | None) -> AsyncIterator[MessagePair]:
    """Yield the messages of a path behind the cursor, the oldest first."""
    if last is not None:  # the path to a message, which may be on another branch
        path = [pair async for pair in _read_descending(chat, None, last)]
        for message, following in reversed(path):
            if cursor is None or message.seq > cursor.seq:
                yield message, following
        return
    after, waiting = 0 if cursor is None else cursor.seq, None
    while True:
        page = await chat.messages(after=after, limit=_PAGE)
        for message in page:
            if waiting is not None:
                yield waiting, message
            waiting = message
        if len(page) < _PAGE:
            break
        after = page[-1].seq
    if waiting is not None:
        yield waiting, None


def format_page(data: list[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    """Return a list object."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else ("", "")  # the schema of the API has no null here
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}
