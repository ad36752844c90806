"""Send a question or tool results, once for each idempotency key.

However often a key is sent, and by whichever process, there is one question and at most one whole reply. Every caller
that returns has the same reply.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from convokit.completion.effects import Flow, read_flow
from convokit.completion.on_busy import OnBusy
from convokit.completion.options import Options
from convokit.completion.resume import MAX_TRIES, return_or_reopen_flow
from convokit.completion.saved_reply import Reply
from convokit.completion.start_point import (
    NO_DETAILS,
    MessageLike,
    StartPoint,
    TurnDetails,
    resolve_seq_flow,
)
from convokit.completion.state import ChatRef, KitState, identify_flow
from convokit.completion.tool_results import AlreadyAnswered
from convokit.completion.turn import ask_flow
from convokit.context.new_messages import validate_messages
from convokit.domain.content import Content, validate_passages, validate_question
from convokit.domain.text import validate_text
from convokit.domain.turn import IdempotencyKey, validate_turn_metadata
from convokit.errors import ConversationBusy, IdempotencyConflict, InvalidInput, Redacted
from convokit.settings import Unset
from convokit.store import turns
from convokit.store.write_batch import Conflict
from convokit.tools.results import validate_results


@dataclass(frozen=True, slots=True, repr=False)
class SendRequest:
    """The arguments of a send as the caller passed them, not validated."""

    content: object
    passages: Sequence[str]
    options: Options
    on_busy: OnBusy
    key: str | None = None
    tool_results: object = None
    after: MessageLike | None = None
    expect: MessageLike | None = None
    messages: object = None
    turn_metadata: object = None


def send_flow(
    kit: KitState, chat: ChatRef, request: SendRequest, *, stream: bool, start_point: StartPoint | None = None
) -> Flow[Reply]:
    """Send a question or tool results behind the branch head, `start_point` or `request.after`, and return the saved reply.

    Raises: every ConvokitError.
    """
    content, details = _validate_request(kit, request), _validate_details(kit, request)
    if request.after is not None:
        start_point = StartPoint((yield from resolve_seq_flow(kit, chat, request.after)))
    if request.expect is not None:
        details = replace(details, expect=(yield from resolve_seq_flow(kit, chat, request.expect)))
    try:
        return (yield from _start_flow(kit, chat, request, _Send(content, start_point, details, stream=stream)))
    except AlreadyAnswered as answered:
        return (yield from _return_answer_flow(kit, chat, request, answered, stream=stream))


def answer_again_flow(
    kit: KitState, chat: ChatRef, request: SendRequest, start_point: StartPoint, *, stream: bool
) -> Flow[Reply]:
    """Answer the stored question at `start_point` in a new turn.

    Raises: every ConvokitError. Conflict if the branch left the head that `start_point` was found for.
    """
    send = _Send(None, start_point, _validate_details(kit, request), stream=stream)
    return (yield from _start_flow(kit, chat, request, send))


def _start_flow(kit: KitState, chat: ChatRef, request: SendRequest, send: _Send) -> Flow[Reply]:
    if request.key is not None:
        return (yield from _send_once_flow(kit, chat, request, send, request.key))
    return (yield from _ask_flow(kit, chat, request, send))


def _validate_request(kit: KitState, request: SendRequest) -> Content:
    """Return the question, its passages and the tool results. Raises: InvalidInput, TooLarge."""
    results, blobs = ((), ()) if request.tool_results is None else validate_results(request.tool_results, kit.limits)
    if request.content is not None:
        content = validate_question(request.content, request.passages, kit.limits)
        return replace(content, results=results, blobs=(*content.blobs, *blobs)) if results else content
    if not results:
        raise InvalidInput("message", "is missing: pass content, tool_results or both")
    if validate_passages(request.passages, kit.limits):
        raise InvalidInput("passages", "belong to a question: pass content too")
    return Content(None, blobs=blobs, results=results, has_question=False)


_STORED = Content(None, has_question=False)
"""The content of a turn whose question is stored already, in a fingerprint."""


@dataclass(frozen=True, slots=True, repr=False)
class _Send:
    """The validated arguments of a send."""

    content: Content | None
    """None: the question at `start_point` is stored already."""
    start_point: StartPoint | None
    details: TurnDetails
    stream: bool


def _ask_flow(
    kit: KitState, chat: ChatRef, request: SendRequest, send: _Send, key: IdempotencyKey | None = None
) -> Flow[Reply]:
    return (
        yield from ask_flow(
            kit,
            chat,
            send.content,
            request.options,
            stream=send.stream,
            on_busy=request.on_busy,
            key=key,
            start_point=send.start_point,
            details=send.details,
        )
    )


def _validate_details(kit: KitState, request: SendRequest) -> TurnDetails:
    """Return the messages and the metadata of a turn. Raises: InvalidInput, TooLarge."""
    if request.messages is None and request.turn_metadata is None:
        return NO_DETAILS
    messages = None if request.messages is None else validate_messages(request.messages, kit.limits)
    metadata = None
    if request.turn_metadata is not None:
        metadata = validate_turn_metadata("turn_metadata", request.turn_metadata, kit.limits)
    return TurnDetails(messages if messages is not None and messages.drafts else None, metadata=metadata)


def _return_answer_flow(
    kit: KitState, chat: ChatRef, request: SendRequest, answered: AlreadyAnswered, *, stream: bool
) -> Flow[Reply]:
    """Return the reply of the turn that was started with the same results. It may still be coming."""
    assert chat.id is not None
    turn = yield from read_flow(turns.find, chat.id, answered.turn_id)
    if turn is None or (turn.branch != chat.branch and not answered.has_reply):
        raise InvalidInput(
            "tool_results", "these calls were answered in a turn of another branch; the chat has no open call"
        )
    return (yield from return_or_reopen_flow(kit, chat, request.options, turn, stream=stream, on_busy=request.on_busy))


def _send_once_flow(
    kit: KitState,
    chat: ChatRef,
    request: SendRequest,
    send: _Send,
    key_text: str,
) -> Flow[Reply]:
    """Start a turn the first time, and return that turn's reply every other time. Raises: IdempotencyConflict, Redacted."""
    if key_text == "":
        raise InvalidInput("idempotency_key", "is empty")
    validate_text("idempotency_key", key_text, limit=kit.limits.key_chars * 4, setting="Limits.key_chars")
    fingerprint = _fingerprint(send, request.options)
    key = IdempotencyKey.from_request(key_text, fingerprint)
    conversation_id = yield from identify_flow(kit, chat)
    for _ in range(MAX_TRIES):
        turn = yield from read_flow(turns.find_by_idempotency_key, kit.tenant, conversation_id, key.hash)
        if turn is not None:
            if turn.fingerprint_salt is None:  # erased together with the question or a passage
                raise Redacted(conversation_id, f"the question of turn {turn.id}")
            if not turn.is_same_request(fingerprint):
                raise IdempotencyConflict(chat.name, turn.id)
            return (
                yield from return_or_reopen_flow(
                    kit, chat, request.options, turn, stream=send.stream, on_busy=request.on_busy
                )
            )
        try:
            return (yield from _ask_flow(kit, chat, request, send, key))
        except Conflict:
            if send.start_point is not None and send.start_point.head is not None:
                raise  # another head has another start point, if no turn under this key is there by now
            continue
        except ConversationBusy:
            # The open turn may be one under this very key, started since we looked.
            if (yield from read_flow(turns.find_by_idempotency_key, kit.tenant, conversation_id, key.hash)) is None:
                raise
    raise ConversationBusy(chat.name, "several", None)


def _fingerprint(send: _Send, options: Options) -> str:
    """Return what makes two requests the same: everything that is sent or written, and where, except `expect`.

    A caller that repeats a request after a crash reads the branch head again. Its own turn may have moved the head.
    """
    content, details = send.content or _STORED, send.details
    passages = [content.passages] if content.passages else []
    results = sorted([each.call_id, each.text, each.parts] for each in content.results)  # a mapping may have any order
    point = send.start_point
    behind = [{"behind": point.seq}] if point is not None and point.head is None else []  # the caller named the message
    more: list[object] = [{"results": results}] if results else []
    if details.messages is not None:
        drafts = [[each.as_wire(), each.kind, each.item, each.created_at] for each in details.messages.drafts]
        more.append({"messages": drafts})
    if details.metadata is not None:
        more.append({"metadata": details.metadata})
    if not isinstance(options.window, Unset):
        more.append({"window": [options.window, 1 if isinstance(options.start, Unset) else options.start]})
    return json.dumps([content.text, content.parts, options.to_json(), *passages, *behind, *more], ensure_ascii=False)
