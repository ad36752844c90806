"""Write the events of a response.

The number of an event is its position in the reply.

`response.created` has the number 0 and `response.in_progress` 1. Each further event counts one, and each character of text or
arguments counts one. A delta has the number of its last character. So every process computes the same numbers from a
stored reply, and a reader continues behind any number without a log of events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from convokit import Reply
from convokit.domain.events import RefusalDelta, StreamEvent, TextDelta, ToolCallDelta
from convokit.domain.message import ASSISTANT
from convokit.server.event_stream import PING, dump_event
from convokit.server.refusals import Refusal, to_refusal
from convokit.server.response_shapes import ResponseShape
from convokit.server.running_turns import RunningTurn


@dataclass(slots=True)
class _OpenItem:
    """The item that is being streamed."""

    item: dict[str, Any]
    index: int
    part: dict[str, Any] | None
    """The content part of a message; None for a call."""
    key: object
    """What later chunks of the same item have in common."""
    text: list[str] = field(default_factory=list)

    @property
    def where(self) -> dict[str, Any]:
        """The fields that name the item, and its part, in an event."""
        where = {"item_id": self.item["id"], "output_index": self.index}
        return where if self.part is None else {**where, "content_index": 0}


class EventWriter:
    """Writes the events of one response for a reader that has those up to number `after` already."""

    def __init__(self, shape: ResponseShape, after: int = -1) -> None:
        self._shape = shape
        self._after = after
        self._number = -1
        self._items: list[dict[str, Any]] = []
        self._open: _OpenItem | None = None

    def write_start(self) -> bytes:
        """Return the first two events."""
        response = self._shape.format("in_progress")
        return self._write("response.created", response=response) + self._write(
            "response.in_progress", response=response
        )

    def write(self, event: StreamEvent) -> bytes:
        """Return the events of a chunk, empty for chunks that the API has no event for here."""
        if isinstance(event, TextDelta):
            return self._write_text(event.text, "output_text")
        if isinstance(event, RefusalDelta):
            return self._write_text(event.refusal, "refusal")
        if isinstance(event, ToolCallDelta):
            return self._write_call(event)
        return b""

    def _write_text(self, text: str, kind: str) -> bytes:
        data = b""
        if self._open is None or self._open.key != kind:
            data = self._close()
            part = {"type": kind, "refusal": ""} if kind == "refusal" else _make_text_part("")
            item = {"type": "message", "id": self._shape.name_item("msg"), "role": ASSISTANT, "status": "in_progress"}
            self._open = _OpenItem({**item, "content": []}, len(self._items), part, kind)
            data += self._write("response.output_item.added", output_index=self._open.index, item=self._open.item)
            data += self._write("response.content_part.added", **self._open.where, part=part)
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return data + self._write_delta(f"response.{kind}.delta", self._open, text, more)

    def _write_call(self, event: ToolCallDelta) -> bytes:
        data = b""
        if self._open is None or self._open.key != event.position:
            data = self._close()
            item = {
                "type": "function_call",
                "id": f"{self._shape.name_item('fc')}_{event.position}",
                "call_id": event.id,
                "name": event.name,
                "arguments": "",
                "status": "in_progress",
            }
            self._open = _OpenItem(item, len(self._items), None, event.position)
            data += self._write("response.output_item.added", output_index=self._open.index, item=item)
        return data + self._write_delta("response.function_call_arguments.delta", self._open, event.arguments, {})

    def _write_delta(self, kind: str, open_item: _OpenItem, text: str, more: dict[str, Any]) -> bytes:
        open_item.text.append(text)
        before, self._number = self._number, self._number + len(text)
        new = text[max(self._after - before, 0) :]  # a reader may have the beginning of a chunk
        return self._dump(kind, {**open_item.where, "delta": new, **more}) if new else b""

    def _close(self) -> bytes:
        """Return the events that end the open item."""
        opened, self._open = self._open, None
        if opened is None:
            return b""
        text = "".join(opened.text)
        if opened.part is None:
            name = opened.item["name"]
            data = self._write("response.function_call_arguments.done", **opened.where, name=name, arguments=text)
            item = {**opened.item, "status": "completed", "arguments": text}
        else:
            is_refusal = opened.key == "refusal"
            part = {"type": "refusal", "refusal": text} if is_refusal else _make_text_part(text)
            if is_refusal:
                data = self._write("response.refusal.done", **opened.where, refusal=text)
            else:
                data = self._write("response.output_text.done", **opened.where, text=text, logprobs=[])
            data += self._write("response.content_part.done", **opened.where, part=part)
            item = {**opened.item, "status": "completed", "content": [part]}
        self._items.append(item)
        return data + self._write("response.output_item.done", output_index=opened.index, item=item)

    def write_end(self, reply: Reply) -> bytes:
        """Return the last events, after the reply was saved."""
        data = self._close()
        status, response = self._shape.format_reply(reply, self._items)
        return data + self._write_last(f"response.{status}", response)

    def write_failure(self, refusal: Refusal) -> bytes:
        """Return the last events of a response that failed or was cancelled."""
        data = self._close()
        response = self._shape.format("failed", output=self._items, error=describe_failure(refusal))
        return data + self._write_last("response.failed", response)

    def _write_last(self, kind: str, response: dict[str, Any]) -> bytes:
        # After a crash, less may be stored than the reader has. The reader must learn of the end all the same.
        self._number = max(self._number, self._after)
        return self._write(kind, response=response)

    def _write(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return self._dump(kind, fields) if self._number > self._after else b""

    def _dump(self, kind: str, fields: dict[str, Any]) -> bytes:
        return dump_event({"type": kind, "sequence_number": self._number, **fields}, kind)


def _make_text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def describe_failure(refusal: Refusal) -> dict[str, str]:
    """Return the `error` of a failed response."""
    code = "rate_limit_exceeded" if refusal.type == "rate_limit_error" else "server_error"
    return {"code": code, "message": refusal.message}


async def stream_events(
    turn: RunningTurn, shape: ResponseShape, ping_s: float, after: int = -1
) -> AsyncIterator[bytes]:
    """Yield the events of a turn behind number `after`."""
    writer: EventWriter | None = None
    try:
        async for events in turn.read(ping_s):
            data = b""
            if writer is None and turn.turn_id is not None:
                writer = EventWriter(shape.with_turn(turn.conversation_id, turn.turn_id), after)
                data = writer.write_start()
            if writer is not None:
                data += b"".join(map(writer.write, events))
            if data or not events:
                yield data or PING
        reply = await turn.wait_for_reply()
        assert writer is not None
        yield writer.write_end(reply)
    except Exception as error:
        if writer is not None:
            yield writer.write_failure(to_refusal(error, turn.base_url))
        else:
            refusal = to_refusal(error, turn.base_url)
            facts = {"code": refusal.code, "message": refusal.message, "param": refusal.param}
            yield dump_event({"type": "error", "sequence_number": 0, **facts}, "error")
