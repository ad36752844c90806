"""A web chat with FastAPI: conversations of each user, and replies as server-sent events.

A reload or a lost connection loses nothing: the reply is finished without its reader, and the browser follows it from the last
event that it has. Run it in a checkout, and talk to it from a second terminal:

    uv run --with fastapi --with uvicorn python examples/fastapi_app.py

    curl -N localhost:8000/conversations/kyoto/messages -H "X-User: mika" --json '{"id": "1", "text": "こんにちは"}'
    curl -N localhost:8000/conversations/kyoto/reply -H "X-User: mika"
    curl localhost:8000/conversations -H "X-User: mika"

CONVOKIT_MODEL names the model, with OPENAI_API_KEY, and OPENAI_BASE_URL for another server than OpenAI's. Without it
an echo answers. CONVOKIT_DATABASE_URL names the database; the default is web_chat.db in this folder.
"""

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from convokit import AsyncChat, AsyncConvokit, AsyncStream, Conversation, Message
from convokit.errors import (
    ConversationBusy,
    ConvokitError,
    IdempotencyConflict,
    Interrupted,
    InvalidInput,
    NotFound,
    StoreUnavailable,
)
from convokit.testing import ScriptedModel, ScriptedReply

STATUS = {NotFound: 404, ConversationBusy: 409, IdempotencyConflict: 409, InvalidInput: 422, StoreUnavailable: 503}


def make_kit() -> AsyncConvokit:
    """Return a kit for the model that the environment names, else for one that repeats what it is told."""
    database = os.environ.get("CONVOKIT_DATABASE_URL", "web_chat.db")
    if os.environ.get("CONVOKIT_MODEL"):
        return AsyncConvokit(database)
    echo = ScriptedModel(lambda request: ScriptedReply(f"You said: {request.text}", pause_s=0.2))
    return AsyncConvokit(database, model="echo", api_key="none", http_client=echo.async_client())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open one kit for the process. Leaving the block waits for replies that have no reader any more."""
    async with make_kit() as kit:
        await kit.migrate()  # with several workers: once per deployment, by `convokit db upgrade`
        app.state.kit = kit
        yield


app = FastAPI(lifespan=lifespan)


def get_kit(request: Request) -> AsyncConvokit:
    """Return the kit of the process. Tests replace it by `app.dependency_overrides`."""
    kit: AsyncConvokit = request.app.state.kit
    return kit


def get_user(x_user: Annotated[str, Header()] = "") -> str:
    """Return the id of the user.

    Replace this function by your login (a session cookie, or a token whose signature you check): anybody can send a header.
    An id with a slash is refused, because the slash ends the user's part of a key.
    """
    if not re.fullmatch(r"[\w.@-]{1,64}", x_user):
        raise HTTPException(401, "log in first")
    return x_user


Kit = Annotated[AsyncConvokit, Depends(get_kit)]
User = Annotated[str, Depends(get_user)]


def get_chat(kit: Kit, user: User, name: Annotated[str, Path(pattern=r"^[\w.-]{1,64}$")]) -> AsyncChat:
    """Return a conversation of the user. No other function makes a key, so nobody gets another user's conversation."""
    return kit.chat(f"{user}/{name}", subject=user)


UserChat = Annotated[AsyncChat, Depends(get_chat)]


class Question(BaseModel):
    """A message of the user. The browser makes the id, and repeats the request with it when it got no answer."""

    id: str
    text: str


class Title(BaseModel):
    """The new title of a conversation."""

    title: str


@app.exception_handler(ConvokitError)
async def refuse(_: Request, error: ConvokitError) -> JSONResponse:
    """Answer with the status of an error. Its message may name the database, so the browser gets the class alone."""
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": type(error).__name__}, status)


@app.get("/conversations")
async def list_conversations(kit: Kit, user: User, before: str | None = None) -> dict[str, Any]:
    """Return a page of the user's conversations, the last used first. `next` is the `before` of the following page."""
    page = await kit.conversations(subject=user, archived=False, before=before)
    return {"conversations": [show_conversation(each) for each in page], "next": page.next}


@app.get("/conversations/{name}")
async def read_conversation(kit: Kit, chat: UserChat, before: int | None = None) -> dict[str, Any]:
    """Return a conversation with its newest messages. While `open` is true, the page reads the reply that is on its way."""
    conversation = await kit.conversation(chat.key)
    if conversation is None:
        raise NotFound("conversation", chat.key)
    messages = await chat.messages(before=before)
    return {**show_conversation(conversation), "messages": [show_message(each) for each in messages]}


@app.patch("/conversations/{name}")
async def rename_conversation(chat: UserChat, new: Title) -> dict[str, Any]:
    """Change the title."""
    return show_conversation(await chat.update(title=new.title))


@app.delete("/conversations/{name}", status_code=204)
async def archive_conversation(chat: UserChat) -> None:
    """Take a conversation out of the list. `chat.erase()` would remove its texts for good."""
    await chat.update(archived=True)


@app.post("/conversations/{name}/messages")
async def ask(chat: UserChat, question: Question) -> StreamingResponse:
    """Send a question, and stream the reply. The first question makes the conversation."""
    stream = chat.stream(question.text, idempotency_key=question.id, on_disconnect="finish")
    return await stream_reply(stream, 0)


@app.get("/conversations/{name}/reply")
async def follow_reply(chat: UserChat, last_event_id: Annotated[str, Header()] = "") -> StreamingResponse:
    """Stream the newest reply from its start, or any reply behind the last event that the browser has."""
    turn, _, characters = last_event_id.partition(":")
    had = int(characters) if characters.isdecimal() else 0
    return await stream_reply(chat.follow(turn or None, after=had), had)


@app.delete("/conversations/{name}/reply")
async def stop_reply(chat: UserChat) -> dict[str, bool]:
    """Stop the reply that is on its way. Its partial text stays in the conversation."""
    return {"stopped": await chat.cancel()}


async def stream_reply(stream: AsyncStream[Any], had: int) -> StreamingResponse:
    """Return a response with a stream's events, once the turn has started: an error before that has its own status."""
    async for _ in stream:
        break
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy holds chunks back
    return StreamingResponse(make_events(stream, had), media_type="text/event-stream", headers=headers)


async def make_events(stream: AsyncStream[Any], had: int) -> AsyncIterator[str]:
    """Yield a stream as server-sent events. Their ids say how many characters the browser has after them."""
    try:
        async with stream:
            yield make_event("started", {}, f"{stream.turn_id}:{had}")
            async for event in stream:
                if event.type == "text":
                    had += len(event.text)
                    yield make_event("text", event.text, f"{stream.turn_id}:{had}")
        yield make_event("end", show_message(stream.reply.message))
    except ConvokitError as error:  # the status line is sent already, so the error becomes an event
        code = error.code if isinstance(error, Interrupted) else None
        yield make_event("failed", {"error": type(error).__name__, "code": code})


def make_event(kind: str, data: Any, event_id: str = "") -> str:
    """Return a server-sent event. JSON has no line ends, so the data are one line."""
    first = f"id: {event_id}\n" if event_id else ""
    return f"{first}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def show_conversation(conversation: Conversation) -> dict[str, Any]:
    """Return what the browser needs of a conversation."""
    return {
        "name": (conversation.key or "").partition("/")[2],
        "title": conversation.title,
        "preview": conversation.preview.text if conversation.preview else "",
        "open": conversation.open,
        "updated": conversation.updated_at,
    }


def show_message(message: Message) -> dict[str, Any]:
    """Return what the browser needs of a message."""
    return {"seq": message.seq, "role": message.role, "text": message.text, "status": message.status}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
