"""Running tool functions, plain or async, from either driver; several at once where the model asked for several.

What a function raises is its outcome, not ours: it comes back as a value. Only what ends a program passes through.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MAX_AT_ONCE = 8
Call = tuple[Callable[..., Any], dict[str, Any]]


def run_functions(calls: Sequence[Call]) -> list[Any]:
    """Return what each call returned or raised. Several run in threads, each with the caller's context variables."""
    if len(calls) == 1:
        return [_outcome(*calls[0])]
    with ThreadPoolExecutor(min(len(calls), MAX_AT_ONCE), "convokit-tool") as pool:
        contexts = [contextvars.copy_context() for _ in calls]
        return list(pool.map(lambda context, call: context.run(_outcome, *call), contexts, calls))


def _outcome(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        value = function(**arguments)
        return _waited_for(value) if inspect.iscoroutine(value) else value
    except Exception as error:
        return error


def _waited_for(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, in a thread of its own where this one already runs a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[Any] = []
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(lambda: outcome.append(_outcome(asyncio.run, {"main": coroutine})),)
    )
    thread.start()
    thread.join()
    return outcome[0]


def _returned(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Return what a function returned or raised: a StopIteration could not travel through a future."""
    try:
        return function(**arguments)
    except Exception as error:
        return error


async def arun_functions(calls: Sequence[Call]) -> list[Any]:
    """As `run_functions`: async functions are awaited, plain ones run in threads."""
    gate = asyncio.Semaphore(MAX_AT_ONCE)

    async def run(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        async with gate:
            try:
                if inspect.iscoroutinefunction(function):
                    return await function(**arguments)
                value = await asyncio.to_thread(_returned, function, arguments)
                return await value if inspect.isawaitable(value) else value
            except Exception as error:
                return error

    return list(await asyncio.gather(*(run(*call) for call in calls)))
