"""A child process that makes one turn and may be stopped in the middle of it, as a laptop's sleep or a long pause would.

`python -m tests.faults.paused_process {...}`; the argument is an `Order` as JSON. Its lease is far shorter than its timeouts,
so that it runs out while the process is stopped. Each line it writes is what it saw of the reply; the last
one is how its turn ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, update

from convokit import AsyncConvokit, Convokit, Retry, Timeouts
from convokit.completion import call as calls
from convokit.completion import call_rows
from convokit.completion.effects import Clock
from convokit.errors import ConvokitError
from convokit.store import schema, turns
from convokit.store.turn_end import TurnEnd
from convokit.store.turn_start import Written

TIMEOUTS = Timeouts(first_byte_s=60, stall_s=60, total_s=120)


@dataclass
class Order:
    """What to send, how, and what is wrong with this process."""

    database: str
    url: str
    text: str = "first"
    face: str = "sync"
    stream: bool = False
    lease_s: float = 1.0
    key: str | None = None
    unfenced: bool = False
    """Leave out what keeps a worker that was taken over from writing."""
    shift_s: float = 0.0
    """How wrong the clock of this process is."""


def tell(**facts: Any) -> None:
    """Write one line."""
    print(json.dumps(facts), flush=True)


def main() -> None:
    """Make the turn."""
    order = Order(**json.loads(sys.argv[1]))
    call_rows.LEASE_MARGIN_S = order.lease_s - (TIMEOUTS.first_byte_s + TIMEOUTS.stall_s if order.stream else 120)
    calls.CHUNK_S = 0.1
    if order.stream:  # a lease is renewed for one silence between two pieces, and begins with two
        setattr(calls, "lease_us", lambda longest_silence_s: int(order.lease_s * 1_000_000))  # noqa: B010
    if order.unfenced:
        _take_out_the_fence()
    real = time.time
    time.time = lambda: real() + order.shift_s
    try:
        reply = asyncio.run(_asend(order)) if order.face == "async" else _send(order)
        tell(ended="ok", text=reply.text)
    except ConvokitError as error:
        kinds = [each.__name__ for each in type(error).__mro__]
        tell(ended=type(error).__name__, kinds=kinds, partial=getattr(error, "partial", ""), said=str(error))


def _settings(order: Order) -> dict[str, Any]:
    return {"model": "m", "base_url": order.url, "timeouts": TIMEOUTS, "retry": Retry(attempts=1)}


def _shifted(kit: Any) -> Any:
    kit._state = replace(kit._state, clock=Clock(time=time.time))
    return kit


def _send(order: Order) -> Any:
    with _shifted(Convokit(order.database, **_settings(order))) as kit:
        chat = kit.chat("k")
        if not order.stream:
            return chat.send(order.text, idempotency_key=order.key)
        with chat.stream(order.text, idempotency_key=order.key) as events:
            for event in events:
                if event.text:
                    tell(piece=event.text)
        return events.reply


async def _asend(order: Order) -> Any:
    async with _shifted(AsyncConvokit(order.database, **_settings(order))) as kit:
        chat = kit.chat("k")
        if not order.stream:
            return await chat.send(order.text, idempotency_key=order.key)
        async with chat.stream(order.text, idempotency_key=order.key) as events:
            async for event in events:
                if event.text:
                    tell(piece=event.text)
        return events.reply


def _take_out_the_fence() -> None:
    """Have the compare-and-swap of a turn's end and renewal succeed, whoever holds the turn."""

    def unfenced(guarded: Callable[..., bool]) -> Callable[..., bool]:
        def write(connection: Connection, conversation_id: UUID, turn_id: UUID, epoch: int, **values: Any) -> bool:
            found = turns.find(connection, conversation_id, turn_id)
            assert found is not None
            held = (schema.turn.c.conversation_id == conversation_id, schema.turn.c.id == turn_id)
            connection.execute(update(schema.turn).where(*held).values(state="open"))
            return guarded(connection, conversation_id, turn_id, found.epoch, **values)

        return write

    write_end = TurnEnd.write

    def unfenced_write(end: TurnEnd, connection: Connection) -> Written | None:
        found = turns.find(connection, end.conversation.id, end.turn_id)
        assert found is not None
        held = (schema.turn.c.conversation_id == end.conversation.id, schema.turn.c.id == end.turn_id)
        connection.execute(update(schema.turn).where(*held).values(state="open"))
        end.epoch = found.epoch
        return write_end(end, connection)

    TurnEnd.write = unfenced_write  # type: ignore[method-assign, assignment]
    turns.renew_lease = unfenced(turns.renew_lease)


if __name__ == "__main__":
    main()
