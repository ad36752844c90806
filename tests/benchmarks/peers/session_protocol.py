"""The items of a session, and what is measured of a store for them. An adapter runs `measure` in its own environment."""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

TURNS = 200
READ = 20
POPS = 20
WORDS = "some eighty words of an ordinary message, as they are typed. " * 4
Run = Callable[[], Awaitable[Any]]


def list_items(number: int) -> list[dict[str, Any]]:
    """Return the five items of one turn, as the Responses API has them."""
    call = f"call_{number}"
    arguments = '{"city":"京都"}'
    return [
        {"role": "user", "content": f"{number} {WORDS}"},
        {"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": "gAAAAABo" * 20},
        {"type": "function_call", "call_id": call, "name": "weather", "arguments": arguments},
        {"type": "function_call_output", "call_id": call, "output": f"晴れ {number}"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": f"{number} {WORDS}", "annotations": []}],
        },
    ]


async def measure(
    add: Callable[[list[dict[str, Any]]], Awaitable[Any]],
    read: Callable[[int | None], Awaitable[list[Any]]],
    pop: Run,
) -> None:
    """Print the milliseconds of: all adds together, reading all, reading the last 20, one pop. The last three are medians."""
    started = time.perf_counter()
    for number in range(TURNS):
        await add(list_items(number))
    fill = (time.perf_counter() - started) * 1000
    expected = [item for number in range(TURNS) for item in list_items(number)]
    assert await read(None) == expected
    assert await read(READ) == expected[-READ:]
    whole, last = await _time(lambda: read(None), 10), await _time(lambda: read(READ), 50)
    popped = await _time(pop, POPS)
    assert await read(None) == expected[:-POPS]
    print(json.dumps([fill, whole, last, popped]))


async def _time(run: Run, count: int) -> float:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await run()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def run(main: Awaitable[None]) -> None:
    """Run an adapter."""

    async def start() -> None:
        await main

    asyncio.run(start())
