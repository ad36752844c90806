"""Serve conversations and their items."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import JSONResponse, Response

from convokit.async_chat import AsyncChat
from convokit.domain.conversation import Conversation
from convokit.domain.message import ASSISTANT, INSTRUCTION_ROLES, Message
from convokit.errors import NotFound
from convokit.server.addressing import parse_seq, read_message
from convokit.server.api_ids import format_conversation_id, parse_conversation_id, parse_item_id
from convokit.server.client_messages import split_instructions
from convokit.server.gateway import Session
from convokit.server.item_shapes import format_items, inline_binaries, to_messages
from convokit.server.refusals import Refusal, not_found, unsupported
from convokit.server.request_body import check_metadata, read_limit, read_order

_MAX_ITEMS = 20
"""Items of one request: OpenAI's OpenAPI document, `CreateConversationItemsRequest`."""
_PAGE = 100


async def create_conversation(session: Session) -> Response:
    """Create a conversation: `POST /conversations`."""
    body = await session.read_body()
    messages = await _read_items(session, body, required=False)
    chat = session.kit.chat(metadata=check_metadata(body) or None)
    await chat.append(messages)
    return JSONResponse(_format_conversation(await _reread(session, chat)))


async def read_conversation(session: Session) -> Response:
    """Return a conversation: `GET /conversations/{id}`."""
    return JSONResponse(_format_conversation(await find_conversation(session, session.request.path_params["id"])))


async def update_conversation(session: Session) -> Response:
    """Replace the metadata of a conversation: `POST /conversations/{id}`."""
    conversation = await find_conversation(session, session.request.path_params["id"])
    body = await session.read_body()
    if "metadata" not in body:
        raise Refusal("Missing required parameter: 'metadata'.", param="metadata", code="missing_required_parameter")
    new = check_metadata(body)
    removed = dict.fromkeys(key for key in conversation.metadata if key not in new)
    chat = session.kit.chat(id=conversation.id)
    return JSONResponse(_format_conversation(await chat.update(metadata={**removed, **new})))


async def delete_conversation(session: Session) -> Response:
    """Archive a conversation: `DELETE /conversations/{id}`. Its messages are kept, as OpenAI keeps them."""
    conversation = await find_conversation(session, session.request.path_params["id"])
    await session.kit.chat(id=conversation.id).update(archived=True)
    given = format_conversation_id(conversation.id)
    return JSONResponse({"id": given, "object": "conversation.deleted", "deleted": True})


async def list_conversations(session: Session) -> Response:
    """List the tenant's conversations, the last used first: `GET /convokit/v1/conversations`."""
    query = session.request.query_params
    archived = {"true": True, "false": False}.get(query.get("archived", "false"))
    page = await session.kit.conversations(
        subject=query.get("subject"),
        prefix=query.get("prefix"),
        archived=archived,
        limit=read_limit(session.request),
        before=query.get("after"),
    )
    data = [
        {
            **_format_conversation(each),
            "key": each.key,
            "title": each.title,
            "subject": each.subject,
            "updated_at": int(each.updated_at.timestamp()),
            "preview": None if each.preview is None else each.preview.text,
        }
        for each in page
    ]
    return JSONResponse({**format_page(data, has_more=page.next is not None), "next": page.next})


async def find_conversation(session: Session, given: str) -> Conversation:
    """Return the conversation that an id names. Raises: Refusal, also for one that was deleted."""
    conversation = await session.kit.conversation(id=parse_conversation_id(given, param="conversation"))
    if conversation is None or conversation.archived_at is not None:
        raise not_found("Conversation", given, param="conversation")
    return conversation


async def _reread(session: Session, chat: AsyncChat) -> Conversation:
    assert chat.id is not None
    return await find_conversation(session, format_conversation_id(chat.id))


def _format_conversation(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": format_conversation_id(conversation.id),
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.metadata,
    }


async def _read_items(session: Session, body: dict[str, Any], *, required: bool) -> list[dict[str, Any]]:
    """Return the field `items` of a body as messages. Raises: Refusal."""
    given = body.get("items")
    if given is None and not required:
        return []
    if not isinstance(given, list) or len(given) > _MAX_ITEMS or (required and not given):
        problem = f"must be a list of at most {_MAX_ITEMS} items"
        raise Refusal(f"items: {problem}", param="items", code="invalid_value")

    async def resolve(item_id: str) -> Message:
        raise unsupported("items", "a reference cannot be added to a conversation")

    messages = await to_messages(given, resolve, param="items")
    if any(message["role"] in INSTRUCTION_ROLES for message in messages):
        problem = "instructions belong to a request: pass them as `instructions` of the response"
        raise unsupported("items", problem)
    return split_instructions(messages)[1]


async def create_items(session: Session) -> Response:
    """Add items at the end of a conversation, without a model: `POST /conversations/{id}/items`."""
    conversation = await find_conversation(session, session.request.path_params["id"])
    messages = await _read_items(session, await session.read_body(), required=True)
    chat = session.kit.chat(id=conversation.id)
    written = await chat.append(messages)
    items = [item for message in written for item in format_items(conversation.id, message, is_reply=False)]
    return JSONResponse(format_page(await inline_binaries(chat, items)))


async def list_items(session: Session) -> Response:
    """List the items of a conversation: `GET /conversations/{id}/items`."""
    conversation = await find_conversation(session, session.request.path_params["id"])
    return JSONResponse(await read_item_page(session, session.kit.chat(id=conversation.id)))


async def read_item(session: Session) -> Response:
    """Return one item: `GET /conversations/{id}/items/{item}`."""
    conversation = await find_conversation(session, session.request.path_params["id"])
    chat, _, item = await _find_item(session, conversation)
    [whole] = await inline_binaries(chat, [item])
    return JSONResponse(whole)


async def delete_item(session: Session) -> Response:
    """Redact the message that an item belongs to: `DELETE /conversations/{id}/items/{item}`."""
    conversation = await find_conversation(session, session.request.path_params["id"])
    chat, message, _ = await _find_item(session, conversation)
    await chat.redact(message.seq, reason="deleted through the API")
    return JSONResponse(_format_conversation(await _reread(session, chat)))


async def _find_item(session: Session, conversation: Conversation) -> tuple[AsyncChat, Message, dict[str, Any]]:
    """Return the message and the item that the URL names, if they are of this conversation. Raises: Refusal."""
    given = session.request.path_params["item"]
    chat, message = await find_message(session, given)
    if chat.id == conversation.id:
        for item in await _format_message(chat, message):
            if item["id"] == given:
                return chat, message, item
    raise not_found("Item", given)


async def find_message(session: Session, given: str) -> tuple[AsyncChat, Message]:
    """Return the message that the id of an item names, if it is the tenant's. Raises: Refusal."""
    name = parse_item_id(given)
    conversation = await session.kit.conversation(id=name.conversation_id)
    if conversation is None or conversation.archived_at is not None:
        raise not_found("Item", given)
    chat, seq = session.kit.chat(id=name.conversation_id), name.seq
    try:
        if name.turn_id is not None:
            turn = await chat.turn(name.turn_id)
            seq = None if turn.reply is None else parse_seq(turn.reply)
        message = None if not seq else await read_message(chat, seq)
    except (LookupError, ValueError):
        message = None
    if message is None or message.status == "redacted":
        raise not_found("Item", given)
    return chat, message


async def _format_message(chat: AsyncChat, message: Message) -> list[dict[str, Any]]:
    """Return the items of a message, with references to its binaries. A reply of a turn is named by the turn."""
    assert chat.id is not None
    is_reply = False
    if message.role == ASSISTANT and message.turn_id is not None:
        try:
            is_reply = (await chat.turn(message.turn_id)).reply == message.id
        except NotFound:
            is_reply = False
    return format_items(chat.id, message, is_reply=is_reply)


async def read_item_page(session: Session, chat: AsyncChat, last: int | None = None) -> dict[str, Any]:
    """Return the page of items that the query asks for: of a chat's path, or of the path to message `last`. Raises: Refusal."""
    request = session.request
    limit, is_descending, after = read_limit(request), read_order(request), request.query_params.get("after")
    found: list[dict[str, Any]] = []
    cursor: int | None = None
    if after is not None:
        owner, message = await find_message(session, after)
        if owner.id != chat.id:
            raise not_found("Item", after, param="after")
        cursor = message.seq
        items = await _format_message(chat, message)
        names = [item["id"] for item in (reversed(items) if is_descending else items)]
        by_name = {item["id"]: item for item in items}
        found = [by_name[name] for name in names[names.index(after) + 1 :]] if after in names else []
    messages = _read_descending(chat, cursor, last) if is_descending else _read_ascending(chat, cursor, last)
    async for message in messages:
        if len(found) > limit:
            break
        if message.status != "redacted" and message.role not in INSTRUCTION_ROLES:
            items = await _format_message(chat, message)
            found += reversed(items) if is_descending else items
    data = await inline_binaries(chat, found[:limit])
    return format_page(data, has_more=len(found) > limit)


async def _read_descending(chat: AsyncChat, cursor: int | None, last: int | None) -> AsyncIterator[Message]:
    if cursor is None and last is not None:
        yield await read_message(chat, last)
        cursor = last
    while True:
        page = await chat.messages(before=cursor, limit=_PAGE) if cursor else await chat.messages(limit=_PAGE)
        for message in reversed(page):
            yield message
        if len(page) < _PAGE:
            return
        cursor = page[0].seq


async def _read_ascending(chat: AsyncChat, cursor: int | None, last: int | None) -> AsyncIterator[Message]:
    if last is not None:  # the path to a message, which may be on another branch
        path = [message async for message in _read_descending(chat, None, last)]
        for message in reversed(path):
            if cursor is None or message.seq > cursor:
                yield message
        return
    while True:
        page = await chat.messages(after=cursor or 0, limit=_PAGE)
        for message in page:
            yield message
        if len(page) < _PAGE:
            return
        cursor = page[-1].seq


def format_page(data: list[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    """Return a list object."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else ("", "")  # the schema of the API has no null here
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}
