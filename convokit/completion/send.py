"""Send a question, once for each idempotency key.

However often a key is sent, and by whichever process, there is one question and at most one whole reply. Every caller
that returns has the same reply.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from convokit.completion.anchor import TurnAnchor
from convokit.completion.effects import Flow, read_flow
from convokit.completion.on_busy import OnBusy
from convokit.completion.options import Options
from convokit.completion.resume import MAX_TRIES, return_or_reopen_flow
from convokit.completion.state import ChatRef, KitState, identify_flow
from convokit.completion.turn import ask_flow
from convokit.domain.content import Content, validate_question
from convokit.domain.text import validate_text
from convokit.domain.turn import IdempotencyKey, Reply
from convokit.errors import ConversationBusy, IdempotencyConflict, InvalidInput, Redacted
from convokit.store import turns
from convokit.store.turn_start import Conflict


@dataclass(frozen=True, slots=True, repr=False)
class SendRequest:
    """The arguments of a send as the caller passed them, not validated."""

    content: object
    passages: Sequence[str]
    options: Options
    on_busy: OnBusy
    key: str | None = None


def send_flow(
    kit: KitState, chat: ChatRef, request: SendRequest, *, stream: bool, anchor: TurnAnchor | None = None
) -> Flow[Reply]:
    """Send a question behind the branch head or at `anchor`, and return the saved reply. Raises: every ConvokitError."""
    content = validate_question(request.content, request.passages, kit.limits)
    if request.key is not None:
        return (yield from _send_once_flow(kit, chat, request, content, request.key, stream=stream, anchor=anchor))
    return (
        yield from ask_flow(kit, chat, content, request.options, stream=stream, on_busy=request.on_busy, anchor=anchor)
    )


def _send_once_flow(
    kit: KitState,
    chat: ChatRef,
    request: SendRequest,
    content: Content,
    key_text: str,
    *,
    stream: bool,
    anchor: TurnAnchor | None,
) -> Flow[Reply]:
    """Start a turn the first time, and return that turn's reply every other time. Raises: IdempotencyConflict, Redacted."""
    if key_text == "":
        raise InvalidInput("idempotency_key", "is empty")
    validate_text("idempotency_key", key_text, limit=kit.limits.key_chars * 4, setting="Limits.key_chars")
    fingerprint = _fingerprint(content, request.options, anchor)
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
                    kit, chat, request.options, turn, stream=stream, on_busy=request.on_busy
                )
            )
        try:
            return (
                yield from ask_flow(
                    kit, chat, content, request.options, stream=stream, on_busy=request.on_busy, key=key, anchor=anchor
                )
            )
        except Conflict:
            continue
        except ConversationBusy:
            # The open turn may be one under this very key, started since we looked.
            if (yield from read_flow(turns.find_by_idempotency_key, kit.tenant, conversation_id, key.hash)) is None:
                raise
    raise ConversationBusy(chat.name, "several", None)


def _fingerprint(content: Content, options: Options, anchor: TurnAnchor | None) -> str:
    """Return what makes two requests the same: content, passages, settings of the call, and anchor."""
    passages = [content.passages] if content.passages else []
    behind = [{"behind": anchor.seq}] if anchor is not None else []
    return json.dumps([content.text, content.parts, options.to_json(), *passages, *behind], ensure_ascii=False)
