"""Run tool functions, plain or async, in parallel.

An exception of a function is returned as its outcome. Only exceptions that end a program pass through.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MAX_CONCURRENT = 8
Call = tuple[Callable[..., Any], dict[str, Any]]


def run_functions(calls: Sequence[Call]) -> list[Any]:
    """Return what each call returned or raised. Several run in threads, each with the caller's context variables."""
    if len(calls) == 1:
        return [_run_one(*calls[0])]
    with ThreadPoolExecutor(min(len(calls), MAX_CONCURRENT), "convokit-tool") as pool:
        contexts = [contextvars.copy_context() for _ in calls]
        return list(pool.map(lambda context, call: context.run(_run_one, *call), contexts, calls))


def _run_one(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        value = function(**arguments)
        return _run_coroutine(value) if inspect.iscoroutine(value) else value
    except Exception as error:
        return error


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end; in a thread of its own if this thread runs an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    outcome: list[Any] = []
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(lambda: outcome.append(_run_one(asyncio.run, {"main": coroutine})),)
    )
    thread.start()
    thread.join()
    return outcome[0]


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Return what a function returned or raised: a future cannot carry a StopIteration."""
    try:
        return function(**arguments)
    except Exception as error:
        return error


async def arun_functions(calls: Sequence[Call]) -> list[Any]:
    """Return what each call returned or raised. Async functions are awaited, plain ones run in threads."""
    gate = asyncio.Semaphore(MAX_CONCURRENT)

    async def run(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        async with gate:
            try:
                if inspect.iscoroutinefunction(function):
                    return await function(**arguments)
                value = await asyncio.to_thread(_call, function, arguments)
                return await value if inspect.isawaitable(value) else value
            except Exception as error:
                return error

    return list(await asyncio.gather(*(run(*call) for call in calls)))
