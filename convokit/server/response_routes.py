"""Serve responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.responses import JSONResponse, Response

from convokit import Reply
from convokit.async_chat import AsyncChat
from convokit.domain.ids import parse_message_seq
from convokit.domain.message import DEVELOPER
from convokit.domain.profiles import resolve_profile
from convokit.domain.stored_records import RequestWindow, TurnRecord
from convokit.errors import NotFound
from convokit.server.addressing import Address, Place, read_message
from convokit.server.chat_routes import find_kept_turn, hide_turn
from convokit.server.client_messages import split_instructions
from convokit.server.conversation_routes import find_conversation
from convokit.server.event_stream import EventStreamResponse
from convokit.server.gateway import Session
from convokit.server.item_shapes import Item, format_items, inline_binaries, is_reference, to_messages
from convokit.server.refusals import Refusal, not_found
from convokit.server.request_body import check_metadata, read_flag, require_text
from convokit.server.response_events import stream_events
from convokit.server.response_shapes import ResponseShape, read_options
from convokit.server.stored_items import ItemFinder, read_item_page
from convokit.server.turn_requests import StartedTurn, TurnRequest, format_left_out
from convokit.tokens import choose_counter, count_message, count_tools

_KIND, _PREFIX = "Response", "resp_"
_STATUS = {"open": "in_progress", "cancelled": "cancelled"}


async def create_response(session: Session) -> Response:
    """Answer the input of a client: `POST /responses`."""
    body = await session.read_body()
    name = require_text(body, "model")
    model = session.use_model(name)
    options = read_options(body, session.gateway.settings.forward)
    check_metadata(body)
    if body.get("conversation") and body.get("previous_response_id"):
        problem = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Pass one of them."
        raise Refusal(problem, code="mutually_exclusive_parameters", param="previous_response_id")
    if body.get("background") and body.get("store") is False:
        raise Refusal("background: needs store=true", code="unsupported_value", param="background")
    instructions, sent = await _read_input(session, body)
    if instructions is not None:
        options["developer_prompt"] = instructions
    is_stream, is_background = read_flag(body, "stream"), read_flag(body, "background")
    shape = ResponseShape.from_request(body, options, name)
    kept = {"response": dict(shape.echo)}
    request = TurnRequest(sent, options, body, stream=is_stream or is_background, metadata=kept)
    session.prepare(request, model, name)
    address = session.read_address(body)
    started = await _start(session, request, address)
    turn, settings, headers = started.turn, session.gateway.settings, session.format_headers(started, address)
    if is_stream:
        await turn.wait_for_content(settings.hold_s)
        events = stream_events(turn, shape, settings.ping_s)
        return EventStreamResponse(events, headers, settings.write_timeout_s)
    if is_background:
        shape = shape.with_turn(turn.conversation_id, await turn.wait_for_start())
        return JSONResponse(shape.format("in_progress"), headers=headers)
    reply = await turn.wait_for_reply()
    headers |= format_left_out(request, started, reply)
    shape = shape.with_turn(turn.conversation_id, reply.turn_id)
    return JSONResponse(await _format_reply(turn.chat, shape, reply), headers=headers)


async def _read_input(session: Session, body: dict[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the instructions and the messages of a request. Raises: Refusal."""
    if body.get("input") is None:
        raise Refusal("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")

    items = body["input"] if isinstance(body["input"], list) else ()
    finder = ItemFinder(session, sum(isinstance(item, dict) and is_reference(item) for item in items))

    async def resolve(item_id: str) -> Item:
        chat, _, item = await finder.find(item_id)
        return (await inline_binaries(chat, [item]))[0]

    given = body.get("instructions")
    if given is not None and not isinstance(given, str):
        raise Refusal("instructions: must be a text", param="instructions", code="invalid_type")
    prompt, sent, _ = split_instructions(await to_messages(body["input"], resolve))
    if not sent:
        raise Refusal("input: has no message", param="input", code="invalid_value")
    return "\n\n".join(text for text in (given, prompt) if text) or None, sent


async def _start(session: Session, request: TurnRequest, address: Address) -> StartedTurn:
    """Start the turn at the place that the body names (rows 2 and 3), else at the one that the history matches."""
    body = request.body
    conversation, previous = body.get("conversation"), body.get("previous_response_id")
    if conversation is None and previous is None:
        return await session.start_turn(request, address)
    starter = await session.make_starter()
    if conversation is not None:
        given = conversation.get("id") if isinstance(conversation, dict) else conversation
        if not isinstance(given, str) or not given.startswith("conv_"):
            problem = f"Invalid 'conversation': {given!r}. Expected an ID that begins with 'conv_'."
            raise Refusal(problem, param="conversation", code="invalid_value")
        chat = session.kit.chat(id=(await find_conversation(session, given)).id)

        async def find_place(has_failed: bool) -> Place:
            found, is_retry = await find_conversation(session, given), address.is_retry or has_failed
            return await starter.addressing.find_delta(chat, found, request.sent, is_retry=is_retry)
    else:
        chat, seq, head = await _find_previous(session, previous)

        async def find_place(has_failed: bool) -> Place:
            is_retry = address.is_retry or has_failed
            place = await starter.addressing.find_after(chat, seq, request.sent, is_retry=is_retry)
            return await _leave_main(place, head)

    return await starter.start(request, chat, find_place)


async def _find_previous(session: Session, given: Any) -> tuple[AsyncChat, int, int | None]:
    """Return the chat of the previous response, the seq of its reply, and the head of the main branch. Raises: Refusal."""
    try:
        chat, turn, _ = await find_kept_turn(session, str(given), _PREFIX, _KIND)
        if turn.reply is None or turn.state != "completed":
            raise not_found(_KIND, str(given))
    except Refusal:
        problem = f"Previous response with id '{given}' not found."
        raise Refusal(problem, code="previous_response_not_found", param="previous_response_id") from None
    conversation = await session.kit.conversation(id=chat.id)
    head = None if conversation is None or conversation.head is None else _parse_seq(chat, conversation.head)
    return chat, _parse_seq(chat, turn.reply), head


def _parse_seq(chat: AsyncChat, message_id: str) -> int:
    assert chat.id is not None
    return parse_message_seq(chat.id, message_id)


async def _leave_main(place: Place, head: int | None) -> Place:
    """Return a place on a new branch if the main branch went on or is busy. So this request is never refused."""
    if place.kind != "delta" or place.after is None:
        return place
    newest = await place.chat.turns(limit=1)
    is_busy = bool(newest) and newest[-1].state == "open"
    if place.after == head and not is_busy:
        return place
    place.chat = await place.chat.fork(place.after)
    place.after = None
    return place


async def read_response(session: Session) -> Response:
    """Return a response, or the rest of its stream: `GET /responses/{id}`."""
    request = session.request
    chat, turn, shape = await _find_response(session)
    if request.query_params.get("stream") == "true":
        settings = session.gateway.settings
        running = session.gateway.running.follow(chat, turn.id)
        events = stream_events(running, shape, settings.ping_s, _read_starting_after(session))
        return EventStreamResponse(events, {}, settings.write_timeout_s)
    return JSONResponse(await _format_turn(session, chat, turn, shape))


def _read_starting_after(session: Session) -> int:
    given = session.request.query_params.get("starting_after", "-1")
    if given != "-1" and not (given.isdecimal() and given.isascii() and len(given) < 11):
        problem = f"must be the number of an event, not {given!r}"
        raise Refusal(f"starting_after: {problem}", param="starting_after", code="invalid_value")
    return int(given)


async def _find_response(session: Session) -> tuple[AsyncChat, TurnRecord, ResponseShape]:
    """Return the turn that the id in the URL names, and the shape of its response. Raises: Refusal."""
    given = session.request.path_params["id"]
    chat, turn, kept = await find_kept_turn(session, given, _PREFIX, _KIND)
    echo = kept.get("response")
    if not isinstance(echo, dict) or echo.get("store") is False or chat.id is None:
        raise not_found(_KIND, given)
    window = turn.calls[-1].window or RequestWindow()
    prompt = await _read_prompt(chat, window.prompt)
    tools = await _read_prompt(chat, window.tools)
    length = echo.get("instructions_chars")  # the prompt may go on with instructions from the input
    instructions = prompt[:length] if prompt is not None and isinstance(length, int) else None
    model = turn.calls[-1].model
    known = [tool for tool in json.loads(tools or "[]") if isinstance(tool.get("function"), dict)]
    return chat, turn, ResponseShape(model, echo, instructions, known, chat.id, turn.id)


async def _read_prompt(chat: AsyncChat, digest: str | None) -> str | None:
    if digest is None:
        return None
    try:
        return await chat.prompt(digest)
    except NotFound:  # erased
        return None


async def _format_turn(session: Session, chat: AsyncChat, turn: TurnRecord, shape: ResponseShape) -> dict[str, Any]:
    """Return the response of a stored turn."""
    if turn.state == "completed":
        reply = await session.gateway.running.follow(chat, turn.id).wait_for_reply()
        return await _format_reply(chat, shape, reply)
    output: list[dict[str, Any]] = []
    if turn.reply is not None and chat.id is not None:
        message = await read_message(chat, _parse_seq(chat, turn.reply))
        output = await inline_binaries(chat, format_items(chat.id, message, is_reply=True))
    status = _STATUS.get(turn.state, "failed")
    if turn.worker == "gone":
        status = "failed"
    error = {"code": "server_error", "message": f"the turn is {turn.state}"} if status == "failed" else None
    return shape.format(status, output=output, error=error)


async def _format_reply(chat: AsyncChat, shape: ResponseShape, reply: Reply) -> dict[str, Any]:
    """Return the response of a saved reply."""
    assert chat.id is not None
    output = await inline_binaries(chat, format_items(chat.id, reply.message, is_reply=True))
    return shape.format_reply(reply, output)[1]


async def delete_response(session: Session) -> Response:
    """Hide a response: `DELETE /responses/{id}`. Its messages stay in the conversation."""
    given = session.request.path_params["id"]
    await hide_turn(session, given, _PREFIX, _KIND)
    return JSONResponse({"id": given, "object": "response", "deleted": True})


async def cancel_response(session: Session) -> Response:
    """End a running response: `POST /responses/{id}/cancel`. The partial reply is kept."""
    chat, turn, shape = await _find_response(session)
    await chat.cancel(turn.id)
    return JSONResponse(await _format_turn(session, chat, await chat.turn(turn.id), shape))


async def list_input_items(session: Session) -> Response:
    """List the messages that a response answers: `GET /responses/{id}/input_items`."""
    chat, turn, _ = await _find_response(session)
    window = turn.calls[-1].window
    seq = window.messages[-1] if window is not None and window.messages else _parse_seq(chat, turn.question)
    return JSONResponse(await read_item_page(session, chat, last=seq))


async def count_input_tokens(session: Session) -> Response:
    """Count the tokens of an input: `POST /responses/input_tokens`."""
    body = await session.read_body()
    model = body.get("model")
    options = read_options(body, session.gateway.settings.forward)
    instructions, sent = await _read_input(session, body)
    state = session.kit._state
    profile = resolve_profile(model if isinstance(model, str) else "", state.base_url)
    counter = choose_counter(profile)
    told = [] if instructions is None else [{"role": DEVELOPER, "content": instructions}]

    def count_tokens() -> int:
        tools = count_tools(counter, options["tools"]) if options.get("tools") else 0
        return tools + sum(count_message(counter, message) for message in (*told, *sent))

    count = await asyncio.to_thread(count_tokens)  # a large input takes a second
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})
