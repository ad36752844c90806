"""Serve conversations and their items."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from convokit.async_chat import AsyncChat
from convokit.domain.conversation import Conversation
from convokit.domain.message import INSTRUCTION_ROLES, Message
from convokit.server.api_ids import format_conversation_id, parse_conversation_id
from convokit.server.client_messages import split_instructions
from convokit.server.gateway import Session
from convokit.server.item_shapes import Item, format_items, inline_binaries, to_messages
from convokit.server.refusals import Refusal, not_found, unsupported
from convokit.server.request_body import check_metadata, read_limit
from convokit.server.stored_items import ItemFinder, format_page, read_item_page

_MAX_ITEMS = 20
"""Items of one request: OpenAI's OpenAPI document, `CreateConversationItemsRequest`."""


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

    async def resolve(item_id: str) -> Item:
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
    chat, _, item = await _find_item(session)
    return JSONResponse((await inline_binaries(chat, [item]))[0])


async def delete_item(session: Session) -> Response:
    """Redact the message that an item belongs to: `DELETE /conversations/{id}/items/{item}`."""
    chat, message, _ = await _find_item(session)
    await chat.redact(message.seq, reason="deleted through the API")
    return JSONResponse(_format_conversation(await _reread(session, chat)))


async def _find_item(session: Session) -> tuple[AsyncChat, Message, Item]:
    """Return the item that the URL names, if it is in the conversation of the URL. Raises: Refusal."""
    conversation = await find_conversation(session, session.request.path_params["id"])
    given = session.request.path_params["item"]
    chat, message, item = await ItemFinder(session).find(given)
    if chat.id != conversation.id:
        raise not_found("Item", given)
    return chat, message, item
