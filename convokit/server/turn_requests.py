"""Start the turn that a request asks for, or find it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from convokit import Budget, Reply
from convokit.async_chat import AsyncChat
from convokit.domain.message import ASSISTANT, USER
from convokit.domain.turn import Turn
from convokit.errors import ConversationBusy, HeadMoved, IdempotencyConflict, InvalidInput, TooLarge
from convokit.server import addressing, matching
from convokit.server.addressing import Addressing, Place
from convokit.server.client_messages import split_answered
from convokit.server.refusals import Refusal, idempotency_refusal
from convokit.server.running_turns import RunningTurn, TurnRegistry

_TRIES = 4
_LIVE = ("open", "completed")
"""The states of a turn that has a reply, or still gets one."""
OnBusy = Literal["raise", "wait", "supersede"]
ON_BUSY: tuple[OnBusy, ...] = ("raise", "wait", "supersede")
METADATA_KEY = "gateway"
"""The key in a turn's metadata under which the gateway keeps what it needs to answer again."""
_SHARE_OF_REPLY = 4
"""The part of the window that `max_tokens` may reserve. Some clients always send the largest number that is allowed."""


@dataclass(slots=True)
class TurnRequest:
    """A request for a turn, in the terms of the library."""

    sent: list[dict[str, Any]]
    """The messages, without instructions."""
    options: dict[str, Any]
    """The options of the call."""
    body: Mapping[str, Any]
    """The request as it came, to tell whether a repeat is the same."""
    positions: Sequence[int] = ()
    """The position of each message in the field `messages`, for errors. Empty: the messages were made from items."""
    stream: bool = False
    """Whether the model's reply is streamed. A turn without a reader is streamed too."""
    idempotency_key: str | None = None
    on_busy: OnBusy = "raise"
    is_managed: bool = False
    """Whether convokit chooses the window although the client sends its history."""
    context_tokens: int | None = None
    metadata: dict[str, Any] | None = None
    """JSON that the gateway keeps with the turn."""

    @property
    def fingerprint(self) -> str:
        """A digest of the request."""
        text = json.dumps(self.body, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True)
class StartedTurn:
    """A turn that was started or found, and where."""

    turn: RunningTurn
    place: Place


@dataclass(slots=True)
class TurnStarter:
    """Starts turns for one caller."""

    addressing: Addressing
    running: TurnRegistry
    secret: bytes
    """The key of the digests."""

    async def start(
        self, request: TurnRequest, chat: AsyncChat | None, find_place: Callable[[bool], Awaitable[Place]]
    ) -> StartedTurn:
        """Start the turn of a request where it belongs, and return it when its question is saved.

        A turn that is not streamed is returned when it has ended.

        Args:
            request: The request.
            chat: The conversation whose idempotency keys are looked up. None: a new one, which has none.
            find_place: Returns the place of the turn. It gets True if the turn of the same idempotency key has failed.

        Raises: ConvokitError, Refusal.
        """
        repeated = None if chat is None else await self._find_repeated(chat, request)
        if chat is not None and repeated is not None and repeated.state in _LIVE:
            return self._follow(Place(chat, "attach", turn=repeated))
        has_failed = repeated is not None
        if has_failed:
            request.idempotency_key = (
                None  # it belongs to the turn that failed; a new turn on the same question follows
            )
        for _ in range(_TRIES - 1):
            place = await find_place(has_failed)
            try:
                return await self._start_at(request, place)
            except (ConversationBusy, HeadMoved):
                if place.kind != "new":
                    raise
                # Another request writes the first messages of the conversation.
            except IdempotencyConflict:
                # The same request came a moment earlier, and its turn is at another place than this one would have.
                repeated = await self._find_repeated(place.chat, request)
                if repeated is None or repeated.state not in _LIVE:
                    raise
                return self._follow(Place(place.chat, "attach", turn=repeated))
        return await self._start_at(request, await find_place(has_failed))

    async def _find_repeated(self, chat: AsyncChat, request: TurnRequest) -> Turn | None:
        """Return the turn that was sent under the same idempotency key (row 1). Raises: Refusal for another request."""
        if request.idempotency_key is None:
            return None
        turns = await chat.turns(idempotency_key=request.idempotency_key)
        if turns and get_kept(turns[0]).get("request") not in (None, request.fingerprint):
            raise idempotency_refusal()
        return turns[0] if turns else None

    def _follow(self, place: Place) -> StartedTurn:
        """Return the turn of a place that needs no new turn."""
        assert place.turn is not None
        return StartedTurn(self.running.follow(place.chat, place.turn.id), place)

    async def _start_at(self, request: TurnRequest, place: Place) -> StartedTurn:
        if place.turn is not None and place.kind == "attach":
            if place.turn.state in _LIVE:
                return self._follow(place)
            place.kind = "regenerate"  # it failed: the call is made again, and the question is not written again
        if place.leaves_main:
            place = await addressing.fork(place)
        try:
            return StartedTurn(await self._run(request, place), place)
        except ConversationBusy:
            if place.kind == "new" or (place.kind == "delta" and place.after is None):
                raise
            place = await addressing.fork(place)
        return StartedTurn(await self._run(request, place), place)

    async def _run(self, request: TurnRequest, place: Place) -> RunningTurn:
        """Start the turn in a task, which goes on when the client leaves."""
        options = self._build_options(request, place)
        chat, stored = place.chat, place.answered
        if place.kind == "regenerate" and stored is not None and stored.role == USER:
            make: Any = chat.stream_regenerate if request.stream else chat.regenerate
            arguments: dict[str, Any] = {"message": stored.seq}
        else:
            before, content, results = split_answered(place.messages)
            make = chat.stream if request.stream else chat.send
            arguments = {"content": content, "tool_results": results, "messages": before or None}
            if place.kind == "new" and place.after is None:
                arguments["expect"] = 0
            else:
                arguments["after"] = place.after
        call = make(**arguments, **options)
        try:
            if request.stream:
                turn = self.running.start_stream(chat, call)
                await turn.wait_for_start()
            else:
                turn = self.running.start(chat, call)
                await turn.wait_for_reply()
        except InvalidInput as error:
            raise _locate(error, request, place) from error
        return turn

    def _build_options(self, request: TurnRequest, place: Place) -> dict[str, Any]:
        options = dict(request.options)
        if request.is_managed or place.kind == "delta":
            options |= _limit_window(request, options)
        else:
            options |= {"window": "exact", "start": place.start}
        if place.digests:
            options["anchor"] = self._make_anchor(place)
        if request.idempotency_key is not None:
            options["idempotency_key"] = request.idempotency_key
            request.metadata = {**(request.metadata or {}), "request": request.fingerprint}
        if request.metadata is not None:
            options["turn_metadata"] = {METADATA_KEY: request.metadata}
        options["on_busy"] = request.on_busy if place.kind == "delta" else "raise"
        return options

    def _make_anchor(self, place: Place) -> Callable[[Mapping[str, Any]], bytes | None]:
        """Return the function that says under which digest a message of the turn is found."""
        sent = place.digests[-1]
        is_first = len(place.digests) == 2

        def anchor(message: Mapping[str, Any]) -> bytes | None:
            if message["role"] != ASSISTANT:
                return sent if is_first else None  # a repeat of a first question without a name finds it
            return matching.extend_digest(self.secret, sent, message)

        return anchor


def get_kept(turn: Turn) -> dict[str, Any]:
    """Return the JSON that the gateway keeps with a turn."""
    kept = turn.metadata.get(METADATA_KEY) if isinstance(turn.metadata, dict) else None
    return kept if isinstance(kept, dict) else {}


def _locate(error: InvalidInput, request: TurnRequest, place: Place) -> Exception:
    """Return an error about a message of the turn as one that names the field of the client's request."""
    found = re.match(r"messages\[(\d+)\]|message\b", error.field)
    if found is None:
        return error
    index = int(found[1]) if found[1] else len(place.messages) - 1
    position = len(request.sent) - len(place.messages) + index
    name = f"messages[{request.positions[position]}]" if request.positions else "input"
    field = name + error.field[found.end() :]
    is_large = isinstance(error, TooLarge)
    message = str(error).replace(error.field, field, 1)
    return Refusal(
        message, status=413 if is_large else 400, code="too_large" if is_large else "invalid_value", param=field
    )


def _limit_window(request: TurnRequest, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budget of a window that convokit chooses."""
    if request.context_tokens is None:
        return {}
    asked = [options.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    largest = max((value for value in asked if isinstance(value, int)), default=None)
    limit = max(request.context_tokens // _SHARE_OF_REPLY, 1)
    reply = None if largest is None else min(max(largest, 1), limit)
    return {"budget": Budget(context_tokens=request.context_tokens, reply_tokens=reply)}


def format_left_out(request: TurnRequest, started: StartedTurn, reply: Reply) -> dict[str, str]:
    """Return the header that says how much history stayed out of a window that convokit chose."""
    is_chosen = request.is_managed or started.place.kind == "delta"
    left_out = 0 if reply.context is None or not is_chosen else reply.context.dropped_tokens
    return {"x-convokit-left-out": f"{left_out} tokens"} if left_out else {}
