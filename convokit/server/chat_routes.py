"""Serve chat completions and models."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from convokit.async_chat import AsyncChat
from convokit.domain.stored_records import TurnRecord
from convokit.server import chat_shapes
from convokit.server.api_ids import parse_turn_id
from convokit.server.client_messages import split_instructions
from convokit.server.event_stream import EventStreamResponse
from convokit.server.gateway import Session, model_refusal
from convokit.server.refusals import Refusal, not_found
from convokit.server.request_body import check_metadata, read_flag, require_text
from convokit.server.turn_requests import METADATA_KEY, TurnRequest, format_left_out, get_kept

_KIND, _PREFIX = "Chat completion", "chatcmpl-"


async def create_completion(session: Session) -> Response:
    """Answer the messages of a client: `POST /chat/completions`."""
    body = await session.read_body()
    name = require_text(body, "model")
    model = session.use_model(name)
    options = chat_shapes.read_options(body, session.gateway.settings.forward)
    metadata = check_metadata(body)
    instructions, sent, positions = split_instructions(body.get("messages"))
    if not sent:
        raise Refusal("messages: has only instructions", param="messages", code="invalid_value")
    if instructions is not None:
        options["developer_prompt"] = instructions
    is_stream = read_flag(body, "stream")
    kept = {"metadata": metadata} if metadata else None
    request = TurnRequest(sent, options, body, positions, is_stream, metadata=kept)
    session.prepare(request, model, name)
    address = session.read_address(body)
    started = await session.start_turn(request, address)
    turn, settings = started.turn, session.gateway.settings
    if is_stream:
        await turn.wait_for_content(settings.hold_s)
        headers = session.format_headers(started, address)
        asked = body.get("stream_options")
        include_usage = isinstance(asked, dict) and bool(asked.get("include_usage"))
        chunks = chat_shapes.stream_chunks(turn, name, include_usage=include_usage, ping_s=settings.ping_s)
        return EventStreamResponse(chunks, headers, settings.write_timeout_s)
    reply = await turn.wait_for_reply()
    headers = {**session.format_headers(started, address), **format_left_out(request, started, reply)}
    completion = chat_shapes.format_completion(reply, turn.conversation_id, name)
    if metadata:
        completion["metadata"] = metadata
    return JSONResponse(completion, headers=headers)


async def read_completion(session: Session) -> Response:
    """Return a stored reply: `GET /chat/completions/{id}`."""
    given = session.request.path_params["id"]
    chat, turn, kept = await find_kept_turn(session, given, _PREFIX, _KIND)
    if turn.state != "completed":
        raise not_found(_KIND, given)
    reply = await session.gateway.running.follow(chat, turn.id).wait_for_reply()
    model = turn.calls[-1].model
    assert chat.id is not None
    completion = chat_shapes.format_completion(reply, chat.id, model)
    completion["metadata"] = kept.get("metadata") or {}
    return JSONResponse(completion)


async def delete_completion(session: Session) -> Response:
    """Hide a reply: `DELETE /chat/completions/{id}`. Its messages stay in the conversation."""
    given = session.request.path_params["id"]
    await hide_turn(session, given, _PREFIX, _KIND)
    return JSONResponse({"object": "chat.completion.deleted", "id": given, "deleted": True})


async def find_kept_turn(
    session: Session, given: str, prefix: str, kind: str
) -> tuple[AsyncChat, TurnRecord, dict[str, Any]]:
    """Return the chat and the turn that an id names, and what the gateway keeps with the turn. Raises: Refusal."""
    conversation_id, turn_id = parse_turn_id(given, prefix, kind)
    conversation = await session.kit.conversation(id=conversation_id)
    if conversation is None or conversation.archived_at is not None:
        raise not_found(kind, given)
    chat = session.kit.chat(id=conversation_id)
    try:
        turn = await chat.turn(turn_id)
    except LookupError:
        raise not_found(kind, given) from None
    kept = get_kept(turn)
    if kept.get("deleted"):
        raise not_found(kind, given)
    return chat, turn, kept


async def hide_turn(session: Session, given: str, prefix: str, kind: str) -> None:
    """Mark the turn that an id names as deleted. Raises: Refusal."""
    chat, turn, kept = await find_kept_turn(session, given, prefix, kind)
    metadata = turn.metadata if isinstance(turn.metadata, dict) else {}
    await chat.update_turn(turn, metadata={**metadata, METADATA_KEY: {**kept, "deleted": True}})


async def list_models(session: Session) -> Response:
    """List the models that the caller may use: `GET /models`."""
    return JSONResponse({"object": "list", "data": [_format_model(name) for name in session.list_models()]})


async def read_model(session: Session) -> Response:
    """Return one model: `GET /models/{id}`."""
    name = session.request.path_params["id"]
    if name not in session.list_models():
        raise model_refusal(name)
    return JSONResponse(_format_model(name))


def _format_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "convokit"}
