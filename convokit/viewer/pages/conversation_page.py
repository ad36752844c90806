"""Read messages of a branch, around a message, or of all branches."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import RedirectResponse, Response

from convokit import Conversation, History, Message, TurnRecord
from convokit.errors import NotFound
from convokit.viewer.message_view import measure_message
from convokit.viewer.page_request import PAGE_SIZE, PageRequest
from convokit.viewer.page_size import find_page


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A page of a path."""

    history: History
    target: int | None = None
    """The seq of the message that the address names."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of the messages of all branches, in the order of writing."""

    conversation: Conversation
    messages: list[Message]
    turns: list[TurnRecord]


async def read_branch(page: PageRequest) -> ConversationPage:
    """Read the newest messages of a branch, or those before or after a message."""
    before, after = page.read_number("before"), page.read_number("after")
    history = await page.open_chat().history(limit=PAGE_SIZE, before=before, after=after)
    return ConversationPage(_fit_history(page, history, 0 if after is not None else -1))


async def read_message(page: PageRequest) -> ConversationPage:
    """Read the messages around a message, on the path that it is on."""
    seq = page.read_path_number("seq")
    history = await page.open_chat().history(limit=PAGE_SIZE, around=seq)
    index = next((index for index, message in enumerate(history.messages) if message.seq == seq), 0)
    return ConversationPage(_fit_history(page, history, index), seq)


def _fit_history(page: PageRequest, history: History, index: int) -> History:
    """Return a history with the messages that fit on the page with the one at `index`. As JSON, it has all of them."""
    first, end = _find_fitting(page, history.messages, index)
    if end - first == len(history.messages):
        return history
    changes = {
        "messages": history.messages[first:end],
        "has_earlier": history.has_earlier or first > 0,
        "has_later": history.has_later or end < len(history.messages),
    }
    return history.model_copy(update=changes)


def _find_fitting(page: PageRequest, messages: list[Message], index: int) -> tuple[int, int]:
    if page.is_json or not messages:
        return 0, len(messages)
    return find_page([measure_message(message) for message in messages], index % len(messages))


async def read_log(page: PageRequest) -> LogPage:
    """Read messages of all branches, the newest first page."""
    conversation = await read_conversation(page)
    chat = page.open_chat()
    messages = await chat.log(limit=PAGE_SIZE, before=page.read_number("before"))
    first, end = _find_fitting(page, messages, -1)
    messages = messages[first:end]
    turn_ids = {message.turn_id for message in messages if message.turn_id is not None}
    return LogPage(conversation, messages, await chat.turn_records(sorted(turn_ids)) if turn_ids else [])


async def read_conversation(page: PageRequest) -> Conversation:
    """Return the conversation in the path. Raises: NotFound."""
    found = await page.kit.conversation(id=page.conversation_id)
    if found is None:
        raise NotFound("conversation", page.conversation_id)
    return found


async def find_key(page: PageRequest) -> Response:
    """Redirect to the conversation under the key in the path. Raises: NotFound."""
    key = page.request.path_params["key"]
    found = await page.kit.conversation(key)
    if found is None:
        raise NotFound("conversation", key)
    return RedirectResponse(page.links.conversation(found.id), 303)


async def answer_raw(page: PageRequest) -> Response:
    """Return the whole text of a message as plain text."""
    seq = page.read_path_number("seq")
    messages = await page.open_chat().messages(around=seq, limit=1, passages=True)
    text = messages[0].text if messages else ""
    return Response(text.encode("utf-8", "replace"), media_type="text/plain; charset=utf-8")
